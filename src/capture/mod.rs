//! Captures. In: opened source disks, their used maps, the machine, a directory to write to. Out:
//! a finished capture in that directory, proven by reading it back, or an error and nothing that
//! could be taken for one.
//!
//! `plan` says what will be read and written; `read` gets chunks off a disk, around bad sectors;
//! `disks` has several of them copied at once where that is faster (`pace`); `copy` turns one disk
//! into one image, whose chunks the workers of a `pool` compress as hard as there is time for
//! (`level`); `image` is that image as it grows, with its checkpoints in a `journal`; `resume` begins
//! one or takes up an interrupted one; `since` finds what an earlier capture has already; `span` goes
//! on on the next medium where one is full; `rescue_map` says what was read in the words of GNU
//! ddrescue; `session` writes a part of a capture; `run` is one from its beginning to its commit.

pub mod copy;
pub mod disks;
pub mod image;
pub mod journal;
pub mod level;
mod pace;
pub mod plan;
pub mod pool;
pub mod read;
pub mod rescue_map;
pub mod resume;
mod run;
mod session;
pub mod since;
pub mod span;

pub use plan::Plan;
pub use rescue_map::rescue_map;
pub use run::{Outcome, Request, find_disks, free_space, refuse_second_pass_over, run};
pub use span::{More, Store, goes_on_elsewhere};

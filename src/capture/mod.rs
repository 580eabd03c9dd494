//! Captures. In: opened source disks, their used maps, the machine, a directory to write to. Out:
//! a finished capture in that directory, proven by reading it back, or an error and nothing that
//! could be taken for one.
//!
//! `plan` says what will be read and written; `read` gets chunks off a disk, around bad sectors;
//! `copy` turns one disk into one image; `session` is a capture from its beginning to its commit;
//! `rescue_map` says what was read in the words of GNU ddrescue.

pub mod copy;
pub mod plan;
pub mod read;
pub mod rescue_map;
pub mod session;

pub use plan::Plan;
pub use rescue_map::rescue_map;
pub use session::{Outcome, Request, find_disks, free_space, run};

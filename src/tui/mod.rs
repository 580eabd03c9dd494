//! What the technician sees at the appliance. In: the machine, the stick, the answers. Out: a
//! screen that says what this machine is and what would be captured, one Enter to start, and the
//! end of it in words.
//!
//! The VGA console and the first serial line show the same, and either may answer: in a server
//! room one does not choose which of them is plugged in. Lines and one bar, no full screen: it
//! reads the same on 80x25 VGA, on a serial line of unknown size and in a log.

pub mod appliance;
pub mod console;
mod numbers;
mod sticks;

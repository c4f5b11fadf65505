//! The commands.

pub(crate) mod convert;
pub(crate) mod run;

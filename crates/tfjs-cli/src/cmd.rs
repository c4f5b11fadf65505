//! The commands.

pub(crate) mod bench;
pub(crate) mod convert;
pub(crate) mod evaluate;
pub(crate) mod inspect;
pub(crate) mod run;
pub(crate) mod train;

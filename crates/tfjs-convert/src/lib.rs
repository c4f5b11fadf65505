//! convert
mod error;
#[allow(unreachable_pub)]
pub mod proto;
pub mod source;

pub use error::ConvertError;

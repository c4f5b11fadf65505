//! Keras files: `.h5`, `.weights.h5`, `.keras` and SavedModels of Keras 2, read into one struct, and written.
//!
//! What the layers mean is the business of `tfjs-layers`; this module knows files, HDF5 and zip archives only.

mod archive;
mod blob;
mod error;
mod file;
mod folder;
mod h5;
mod npz;
mod saved_model;
mod write;

pub use archive::Assets;
pub use error::KerasError;
pub use file::KerasFile;
pub use h5::H5Group;
pub(crate) use write::atomically;
pub use write::{H5Model, KerasArchive, write_h5};

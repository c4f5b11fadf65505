//! Passes that know what TensorFlow files hold; those that know only graphs are in `tfjs_graph::passes`.

pub(crate) mod case;
pub(crate) mod debug_ops;
pub(crate) mod defaults;
pub(crate) mod effects;
pub(crate) mod freeze;
pub(crate) mod inline;
pub(crate) mod layout;
pub(crate) mod list_elements;
pub(crate) mod lower;
pub(crate) mod ops_check;
pub(crate) mod outputs;
pub(crate) mod tables;

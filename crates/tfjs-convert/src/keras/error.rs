use std::error::Error as StdError;

/// What can be wrong inside a Keras file. [`ConvertError::Keras`](crate::ConvertError::Keras) names the file.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KerasError {
    /// Neither HDF5 nor zip.
    #[error("it is neither an HDF5 file (.h5) nor a zip archive (.keras){}", hint(.found))]
    UnknownFormat {
        /// What it looks like instead.
        found: Option<&'static str>,
    },
    /// The file as a whole is not readable as HDF5.
    #[error("its HDF5 structure is broken or not supported")]
    Open(#[source] Box<dyn StdError + Send + Sync>),
    /// A group, dataset or attribute cannot be read.
    #[error("`{object}` cannot be read")]
    Object {
        /// Path of the group or dataset.
        object: String,
        /// Why.
        #[source]
        source: Box<dyn StdError + Send + Sync>,
    },
    /// A group or dataset that the file refers to is not there.
    #[error("there is no {kind} `{object}`")]
    NoSuchObject {
        /// Path of the group or dataset.
        object: String,
        /// "group" or "dataset".
        kind: &'static str,
    },
    /// A link, or raw data, in another file.
    #[error(
        "`{object}` lies in another file, `{target}`, which is never opened; copy its contents into this file"
    )]
    ExternalLink {
        /// Path in the file.
        object: String,
        /// Name of the other file.
        target: String,
    },
    /// Elements of a type that has no place in a model.
    #[error("`{object}` has elements of type {found}, which is not supported")]
    ElementType {
        /// Path of the dataset.
        object: String,
        /// The type.
        found: String,
    },
    /// A dataset or archive member that claims to be larger than what is stored can hold.
    #[error("`{object}` claims {size} bytes, the limit is {limit} for a file of this size")]
    TooLarge {
        /// Path of the dataset, or name of the member.
        object: String,
        /// Bytes that its shape asks for.
        size: u128,
        /// Bytes that are accepted.
        limit: u64,
    },
    /// More groups and datasets than a file of this size can hold, as cycles of links give.
    #[error("`{object}` leads to more than {limit} groups and datasets: links form a cycle")]
    TooMany {
        /// Path of the group.
        object: String,
        /// Number that is accepted.
        limit: usize,
    },
    /// Stored elements do not fill the shape.
    #[error("`{object}` has {got} bytes of data, its shape asks for {expected}")]
    Length {
        /// Path of the dataset.
        object: String,
        /// Bytes there.
        got: usize,
        /// Bytes that its shape asks for.
        expected: usize,
    },
    /// An attribute is missing or of the wrong kind.
    #[error("attribute `{name}` of `{object}` {what}")]
    Attribute {
        /// Path of the group or dataset.
        object: String,
        /// The attribute.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// An integer that does not fit TensorFlow.js's only integer type.
    #[error("weight `{name}` holds {value}, which is outside int32")]
    OutsideInt32 {
        /// The weight.
        name: String,
        /// The first such value.
        value: i128,
    },
    /// A text that should be JSON.
    #[error("`{place}` is not JSON")]
    Json {
        /// Attribute or archive member.
        place: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A text that is not UTF-8.
    #[error("`{place}` is not UTF-8 text")]
    NotText {
        /// Attribute or archive member.
        place: String,
    },
    /// A list of sharded weights that names what it must not.
    #[error("in the list of its weights, {what}")]
    Shards {
        /// What is wrong.
        what: String,
    },
    /// The zip archive as a whole is broken.
    #[error("it is not a readable zip archive")]
    Zip(#[source] Box<dyn StdError + Send + Sync>),
    /// A member of the archive is refused or broken.
    #[error("archive member `{name}` {what}")]
    Member {
        /// The member.
        name: String,
        /// What is wrong.
        what: String,
    },
    /// A member of the archive is not there.
    #[error("the archive has no `{name}`; it holds {}", listed(.found))]
    MissingMember {
        /// The member.
        name: String,
        /// The first members that are there.
        found: Vec<String>,
    },
    /// HDF5 without anything that Keras writes.
    #[error(
        "this HDF5 file holds no Keras model or weights: no attribute `model_config` or `layer_names`, no group `layers`"
    )]
    NotKeras,
    /// A SavedModel that another than Keras wrote.
    #[error(
        "this SavedModel holds no Keras model: it has no `keras_metadata.pb` with the config of one; convert it with --input_format=tf_saved_model"
    )]
    NotKerasSavedModel,
    /// A way of reading HDF5 that this build does not have.
    #[error("TFJS_HDF5={name} is not available: expected `rust`{}", if cfg!(feature = "hdf5") { " or `libhdf5`" } else { " (`libhdf5` needs the build feature `hdf5`)" })]
    NoBackend {
        /// Its name.
        name: String,
    },
    /// What HDF5 as Keras writes it cannot hold.
    #[error("`{object}` cannot be written: {what}")]
    Unwritable {
        /// Path in the file.
        object: String,
        /// Why.
        what: String,
    },
    /// The system's reason.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

fn hint(found: &Option<&'static str>) -> String {
    found.map_or_else(String::new, |found| format!(" but {found}"))
}

fn listed(names: &[String]) -> String {
    match names {
        [] => "nothing".to_owned(),
        names => names.iter().map(|n| format!("`{n}`")).collect::<Vec<_>>().join(", "),
    }
}

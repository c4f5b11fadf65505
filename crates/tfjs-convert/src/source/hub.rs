//! TF-Hub modules: a directory in either module format, or the address of one.

use std::path::{Path, PathBuf};

use super::{
    import::Imported,
    saved_model::{import, load, meta_graph},
};
use crate::{ConvertError, Warning};

/// Reads a module. Without a signature `default` is taken, or `serving_default` where there is no such one.
///
/// # Errors
/// When the module cannot be fetched or read, or tags or signature do not exist.
pub fn read(
    handle: &str,
    tags: &[String],
    signature: Option<&str>,
) -> Result<(Imported, Vec<Warning>), ConvertError> {
    let dir = resolve(handle)?;
    let (model, contents) = load(&dir)?;
    // Version 1 modules keep the graph for inference without tags.
    let version1 = dir.join("tfhub_module.pb").is_file();
    let meta = meta_graph(model, if version1 { &[] } else { tags })?;
    let mut warnings = Vec::new();
    let chosen = match signature {
        Some(signature) => signature.to_owned(),
        None if !meta.signature_def.contains_key("default")
            && meta.signature_def.contains_key("serving_default") =>
        {
            let signature = "serving_default".to_owned();
            warnings.push(Warning::OtherSignature { signature: signature.clone() });
            signature
        }
        None => "default".to_owned(),
    };
    let mut imported = import(&dir, meta, &chosen)?;
    imported.contents = contents;
    imported.prefix = version1.then(|| format!("module_apply_{chosen}"));
    Ok((imported, warnings))
}

fn resolve(handle: &str) -> Result<PathBuf, ConvertError> {
    if ["http://", "https://"].iter().any(|scheme| handle.starts_with(scheme)) {
        #[cfg(feature = "http")]
        return super::hub_cache::fetch(handle);
        #[cfg(not(feature = "http"))]
        return Err(ConvertError::NoHttp { url: handle.to_owned() });
    }
    Ok(Path::new(handle).to_path_buf())
}

//! Models over HTTP(S), with the options and address rules of TF.js.
use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use ureq::Agent;

use super::{Credentials, LoadOptions, ModelSource, ModelText, Progress};
use crate::FormatError;

/// A model on a web server.
///
/// Unlike TF.js the status of weight responses is checked too.
pub struct HttpSource {
    url: String,
    options: LoadOptions,
    agent: Agent,
}

impl HttpSource {
    /// A model by the address of its `model.json` (or, with `from_tf_hub`, of the hub model; or of an old
    /// `tensorflowjs_model.pb`). Nothing is requested yet.
    pub fn new(url: &str, options: LoadOptions) -> HttpSource {
        let url = match options.from_tf_hub {
            true => format!("{}/model.json?tfjs-format=file", url.strip_suffix('/').unwrap_or(url)),
            false => url.to_owned(),
        };
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(30)))
            .user_agent(concat!("tfjs-format/", env!("CARGO_PKG_VERSION")))
            .build();
        HttpSource { url, options, agent: config.new_agent() }
    }

    /// The part up to the last slash, and the query: both frame every weight path.
    fn frame(&self) -> (&str, &str) {
        let slash = self.url.rfind('/').map_or(0, |at| at + 1);
        let query = self.url.rfind('?').filter(|&at| at >= slash).unwrap_or(self.url.len());
        (&self.url[..slash], &self.url[query..])
    }

    fn weight_url(&self, path: &str) -> String {
        if let Some(converter) = &self.options.weight_url_converter {
            return converter(path);
        }
        let (directory, query) = self.frame();
        let prefix = self.options.weight_path_prefix.as_deref().unwrap_or(directory);
        format!("{prefix}{path}{query}")
    }

    fn request(&self, url: &str) -> Result<Box<dyn Read + Send>, FormatError> {
        let mut request = self.agent.get(url);
        for (name, value) in &self.options.headers {
            request = request.header(name, value);
        }
        if let Some(credentials) = &self.options.credentials {
            request = request.header("Authorization", authorization(credentials));
        }
        let response = request
            .call()
            .map_err(|e| FormatError::HttpTransport { url: url.to_owned(), source: Box::new(e) })?;
        let status = response.status();
        if !status.is_success() {
            return Err(FormatError::HttpStatus { url: url.to_owned(), status: status.as_u16() });
        }
        Ok(Box::new(response.into_body().into_reader()))
    }

    fn get(&self, url: &str) -> Result<Bytes, FormatError> {
        let mut bytes = Vec::new();
        self.request(url)?
            .read_to_end(&mut bytes)
            .map_err(|e| FormatError::HttpTransport { url: url.to_owned(), source: Box::new(e) })?;
        Ok(bytes.into())
    }
}

fn authorization(credentials: &Credentials) -> String {
    match credentials {
        Credentials::Basic { user, password } => {
            format!("Basic {}", crate::json::base64(format!("{user}:{password}").as_bytes()))
        }
        Credentials::Bearer(token) => format!("Bearer {token}"),
    }
}

impl ModelSource for HttpSource {
    fn name(&self) -> String {
        self.url.clone()
    }

    fn model(&self) -> Result<ModelText, FormatError> {
        let (directory, query) = self.frame();
        let file = &self.url[directory.len()..self.url.len() - query.len()];
        let text = self.get(&self.url)?;
        if !file.ends_with(".pb") {
            return Ok(ModelText::Json(text));
        }
        let manifest = self.get(&format!("{directory}weights_manifest.json{query}"))?;
        Ok(ModelText::Legacy { graph: text, manifest })
    }

    fn shard(&self, path: &str) -> Result<Bytes, FormatError> {
        self.get(&self.weight_url(path))
    }

    fn stream(&self, path: &str) -> Result<Box<dyn Read + Send>, FormatError> {
        self.request(&self.weight_url(path))
    }

    fn shard_name(&self, path: &str) -> String {
        self.weight_url(path)
    }

    fn progress(&self) -> Option<&Progress> {
        self.options.on_progress.as_ref()
    }
}

//! Models from a real server on this machine.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::thread;

use tfjs_format::io::{Credentials, LoadOptions, open};
use tfjs_format::{FormatError, ModelJson, Topology, WeightStream, Weights};

type Request = (String, HashMap<String, String>);

/// A server of these files, and what it was asked: path with query, and headers.
struct Server {
    base: String,
    requests: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    fn start(files: &[(&'static str, Vec<u8>)]) -> Server {
        let files: HashMap<&str, Vec<u8>> = files.iter().cloned().collect();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
                let Some(first) = lines.next() else { continue };
                let target = first.split(' ').nth(1).unwrap_or("").to_owned();
                let headers = lines
                    .take_while(|line| !line.is_empty())
                    .filter_map(|line| line.split_once(": ").map(|(k, v)| (k.to_lowercase(), v.to_owned())))
                    .collect();
                log.lock().unwrap().push((target.clone(), headers));
                let path = target.split('?').next().unwrap_or("");
                let (status, body) = match files.get(path) {
                    Some(body) => ("200 OK", body.as_slice()),
                    None => ("404 Not Found", &b"<html>no</html>"[..]),
                };
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
            }
        });
        Server { base, requests }
    }

    fn targets(&self) -> Vec<String> {
        self.requests.lock().unwrap().iter().map(|(target, _)| target.clone()).collect()
    }
}

fn model() -> Vec<u8> {
    br#"{"format": "graph-model", "modelTopology": {"node": []}, "weightsManifest": [{"paths": ["a.bin", "b.bin"],
        "weights": [{"name": "w", "shape": [3], "dtype": "int32"}]}]}"#
        .to_vec()
}

fn shards(directory: &'static str) -> [(&'static str, Vec<u8>); 2] {
    let leak = |name: &str| &*format!("{directory}{name}").leak();
    [(leak("a.bin"), vec![1, 0, 0, 0, 2, 0]), (leak("b.bin"), vec![0, 0, 3, 0, 0, 0])]
}

fn load(url: &str, options: LoadOptions) -> Result<Vec<i32>, FormatError> {
    let source = open(url, &options)?;
    let model = ModelJson::load(&*source)?;
    if options.stream_weights {
        let mut stream = WeightStream::new(&*source, &model.weights_manifest)?;
        let (_, values) = stream.next_weight()?.unwrap();
        assert!(stream.next_weight()?.is_none());
        return Ok(values.i32s()?.into_owned());
    }
    let weights = Weights::open(&*source, &model.weights_manifest)?;
    Ok(weights.get("w")?.i32s()?.into_owned())
}

#[test]
fn weights_lie_beside_the_model_and_inherit_its_query() {
    let [a, b] = shards("/m/");
    let server = Server::start(&[("/m/model.json", model()), a, b]);
    let url = format!("{}/m/model.json?key=1", server.base);
    assert_eq!(load(&url, LoadOptions::default()).unwrap(), [1, 2, 3]);
    assert_eq!(server.targets(), ["/m/model.json?key=1", "/m/a.bin?key=1", "/m/b.bin?key=1"]);
}

#[test]
fn weights_can_be_streamed() {
    let [a, b] = shards("/");
    let server = Server::start(&[("/model.json", model()), a, b]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let listener = Arc::clone(&seen);
    let options = LoadOptions {
        stream_weights: true,
        on_progress: Some(Arc::new(move |fraction| listener.lock().unwrap().push(fraction))),
        ..LoadOptions::default()
    };
    assert_eq!(load(&format!("{}/model.json", server.base), options).unwrap(), [1, 2, 3]);
    assert_eq!(*seen.lock().unwrap(), [0.0, 0.5, 1.0]);
}

#[test]
fn headers_and_credentials_go_with_every_request() {
    let [a, b] = shards("/");
    let server = Server::start(&[("/model.json", model()), a, b]);
    let options = LoadOptions {
        headers: vec![("X-Team".to_owned(), "vision".to_owned())],
        credentials: Some(Credentials::Basic { user: "ada".to_owned(), password: "x:y".to_owned() }),
        ..LoadOptions::default()
    };
    load(&format!("{}/model.json", server.base), options).unwrap();
    let requests = server.requests.lock().unwrap();
    assert_eq!(requests.len(), 3);
    for (_, headers) in requests.iter() {
        assert_eq!(headers["x-team"], "vision");
        // printf ada:x:y | base64
        assert_eq!(headers["authorization"], "Basic YWRhOng6eQ==");
    }
}

#[test]
fn a_bearer_token_is_a_credential_that_is_not_printed() {
    let [a, b] = shards("/");
    let server = Server::start(&[("/model.json", model()), a, b]);
    let options =
        LoadOptions { credentials: Some(Credentials::Bearer("s3cret".to_owned())), ..LoadOptions::default() };
    assert!(!format!("{options:?}").contains("s3cret"));
    load(&format!("{}/model.json", server.base), options).unwrap();
    assert_eq!(server.requests.lock().unwrap()[2].1["authorization"], "Bearer s3cret");
}

#[test]
fn a_prefix_or_a_converter_moves_weights() {
    let [a, b] = shards("/w/");
    let server = Server::start(&[("/model.json", model()), a, b]);
    let url = format!("{}/model.json", server.base);
    let options =
        LoadOptions { weight_path_prefix: Some(format!("{}/w/", server.base)), ..LoadOptions::default() };
    assert_eq!(load(&url, options).unwrap(), [1, 2, 3]);

    let base = server.base.clone();
    let options = LoadOptions {
        weight_url_converter: Some(Arc::new(move |path| format!("{base}/w/{path}?signed"))),
        ..LoadOptions::default()
    };
    assert_eq!(load(&url, options).unwrap(), [1, 2, 3]);
    assert_eq!(server.targets()[4..], ["/w/a.bin?signed", "/w/b.bin?signed"]);
}

#[test]
fn hub_addresses_are_completed() {
    let [a, b] = shards("/google/net/1/");
    let server = Server::start(&[("/google/net/1/model.json", model()), a, b]);
    for slash in ["", "/"] {
        let options = LoadOptions { from_tf_hub: true, ..LoadOptions::default() };
        assert_eq!(load(&format!("{}/google/net/1{slash}", server.base), options).unwrap(), [1, 2, 3]);
    }
    assert_eq!(server.targets()[0], "/google/net/1/model.json?tfjs-format=file");
    assert_eq!(server.targets()[1], "/google/net/1/a.bin?tfjs-format=file");
}

#[test]
fn old_models_of_two_files_come_over_http_too() {
    let manifest =
        br#"[{"paths": ["a.bin", "b.bin"], "weights": [{"name": "w", "shape": [3], "dtype": "int32"}]}]"#;
    let [a, b] = shards("/");
    let server = Server::start(&[
        ("/tensorflowjs_model.pb", vec![]),
        ("/weights_manifest.json", manifest.to_vec()),
        a,
        b,
    ]);
    let source = open(&format!("{}/tensorflowjs_model.pb", server.base), &LoadOptions::default()).unwrap();
    let model = ModelJson::load(&*source).unwrap();
    assert!(matches!(model.topology, Topology::Graph(_)));
    assert_eq!(Weights::open(&*source, &model.weights_manifest).unwrap().len(), 1);
}

#[test]
fn a_missing_model_or_shard_is_an_error_with_its_address() {
    let [a, _] = shards("/");
    let server = Server::start(&[("/model.json", model()), a]);
    let error = load(&format!("{}/none.json", server.base), LoadOptions::default()).unwrap_err();
    assert!(matches!(error, FormatError::HttpStatus { status: 404, .. }), "{error:?}");
    let error = load(&format!("{}/model.json", server.base), LoadOptions::default()).unwrap_err();
    assert!(error.to_string().contains("/b.bin failed with status 404"), "{error}");
}

#[test]
fn an_html_page_is_recognised_and_named() {
    let server = Server::start(&[("/model.json", b"<!doctype html>".to_vec())]);
    let error = load(&format!("{}/model.json", server.base), LoadOptions::default()).unwrap_err();
    assert!(matches!(error.cause(), FormatError::HtmlInsteadOfJson), "{error:?}");
    assert!(error.to_string().contains("/model.json"));
}

#[test]
fn a_server_that_is_not_there_is_an_error() {
    // Port 9 (discard) is not served.
    let source = open("http://127.0.0.1:9/model.json", &LoadOptions::default()).unwrap();
    assert!(matches!(source.model().unwrap_err(), FormatError::HttpTransport { .. }));
}

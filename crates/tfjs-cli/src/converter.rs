//! The command line of `tensorflowjs_converter` 4.22, without its traps.
//!
//! Python's `argparse` accepts unambiguous beginnings of flags, and flags whose value may be left out. There a bare
//! `--quantize_float16` takes the path behind it for its value, and `--strip_debug_ops=False` means true. Here
//! [`normalised`] rewrites what was typed so that every flag stands for itself, and [`ConvertArgs`] parses that.

use std::{
    collections::HashSet,
    ffi::{OsStr, OsString},
    path::PathBuf,
};

use clap::{
    Args as ClapArgs, Parser,
    builder::{PossibleValuesParser, TypedValueParser},
};
use tfjs_convert::{ConvertOptions, InputFormat, OutputFormat, QuantizationMap};
use tfjs_format::QuantizeTo;

use crate::CliError;

/// How a flag takes its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Always has one.
    Value,
    /// May have one.
    Optional,
    /// A truth value, true when left out.
    Bool,
}

/// All flags with a name of their own. One-letter flags take no value.
const FLAGS: [(&str, Kind); 23] = [
    ("input_format", Kind::Value),
    ("output_format", Kind::Value),
    ("signature_name", Kind::Value),
    ("saved_model_tags", Kind::Value),
    ("quantize_float16", Kind::Optional),
    ("quantize_uint8", Kind::Optional),
    ("quantize_uint16", Kind::Optional),
    ("quantization_bytes", Kind::Value),
    ("split_weights_by_layer", Kind::Bool),
    ("version", Kind::Bool),
    ("skip_op_check", Kind::Bool),
    ("strip_debug_ops", Kind::Bool),
    ("use_structured_outputs_names", Kind::Bool),
    ("weight_shard_size_bytes", Kind::Value),
    ("output_node_names", Kind::Value),
    ("control_flow_v2", Kind::Bool),
    ("experiments", Kind::Bool),
    ("metadata", Kind::Value),
    ("help", Kind::Bool),
    // Not of the Python tool; only the whole name is taken, so that its abbreviations stay what they are.
    ("json", Kind::Bool),
    ("strict", Kind::Bool),
    ("dump", Kind::Value),
    ("no_lower", Kind::Bool),
];

/// How many of [`FLAGS`] are the Python tool's.
const OF_PYTHON: usize = 19;

/// The `tensorflowjs_converter` command.
#[derive(Debug, Parser)]
#[command(
    name = "tensorflowjs_converter",
    about = "TensorFlow.js model converters.",
    args_override_self = true,
    disable_version_flag = true
)]
pub(crate) struct Converter {
    #[command(flatten)]
    pub(crate) args: ConvertArgs,
}

/// What to convert, to what, and how.
#[derive(Debug, ClapArgs)]
pub(crate) struct ConvertArgs {
    /// SavedModel directory, frozen graph (.pb), directory or address of a TF-Hub module, or other file to convert
    #[arg(value_name = "INPUT")]
    pub(crate) input_path: Option<String>,
    /// Directory to write model.json and weights to
    #[arg(value_name = "OUTPUT")]
    pub(crate) output_path: Option<PathBuf>,
    /// What the input is [default: what it looks like]
    #[arg(long = "input_format", value_parser = input_formats(), value_name = "FORMAT")]
    pub(crate) input_format: Option<InputFormat>,
    /// What to write [default: what suits the input]
    #[arg(long = "output_format", value_parser = output_formats(), value_name = "FORMAT")]
    pub(crate) output_format: Option<OutputFormat>,
    /// Signature of a SavedModel or TF-Hub module [default: serving_default, or default for TF-Hub]
    #[arg(long = "signature_name", value_name = "KEY")]
    pub(crate) signature_name: Option<String>,
    /// Tags of the SavedModel's meta graph, separated by commas
    #[arg(long = "saved_model_tags", default_value = "serve", value_name = "TAGS")]
    pub(crate) saved_model_tags: String,
    /// Output nodes of a frozen graph, separated by commas
    #[arg(long = "output_node_names", value_name = "NODES")]
    pub(crate) output_node_names: Option<String>,
    /// Store weights as float16: those whose names match (`conv/*,dense/kernel`), or all others
    #[arg(long = "quantize_float16", num_args = 0..=1, require_equals = true, value_name = "PATTERNS")]
    pub(crate) quantize_float16: Option<Option<String>>,
    /// Store weights in one byte: those whose names match, or all others
    #[arg(long = "quantize_uint8", num_args = 0..=1, require_equals = true, value_name = "PATTERNS")]
    pub(crate) quantize_uint8: Option<Option<String>>,
    /// Store weights in two bytes: those whose names match, or all others
    #[arg(long = "quantize_uint16", num_args = 0..=1, require_equals = true, value_name = "PATTERNS")]
    pub(crate) quantize_uint16: Option<Option<String>>,
    /// Deprecated: 1 is --quantize_uint8, 2 is --quantize_uint16
    #[arg(long = "quantization_bytes", value_name = "1|2", value_parser = clap::value_parser!(u64).range(1..=2))]
    pub(crate) quantization_bytes: Option<u64>,
    /// Most bytes per weight file [default: 4194304]
    #[arg(long = "weight_shard_size_bytes", value_name = "BYTES", allow_negative_numbers = true)]
    pub(crate) weight_shard_size_bytes: Option<i64>,
    /// One group of weight files per layer (layers models)
    #[arg(long = "split_weights_by_layer", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = truth, value_name = "BOOL")]
    pub(crate) split_weights_by_layer: bool,
    /// Also write ops that TensorFlow.js does not have
    #[arg(long = "skip_op_check", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = truth, value_name = "BOOL")]
    pub(crate) skip_op_check: bool,
    /// Remove Assert, CheckNumerics and Print
    #[arg(long = "strip_debug_ops", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "true", value_parser = truth, value_name = "BOOL")]
    pub(crate) strip_debug_ops: bool,
    /// Name outputs after the keys of a structured output
    #[arg(long = "use_structured_outputs_names", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = truth, value_name = "BOOL")]
    pub(crate) use_structured_outputs_names: bool,
    /// Accepted for compatibility: loops and conditionals are always written in their functional form
    #[arg(long = "control_flow_v2", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = truth, value_name = "BOOL")]
    pub(crate) control_flow_v2: bool,
    /// Accepted for compatibility: it switches a step of the Python tool's optimizer that there is none of here
    #[arg(long = "experiments", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = truth, value_name = "BOOL")]
    pub(crate) experiments: bool,
    /// JSON files to embed as userDefinedMetadata
    #[arg(long = "metadata", value_name = "KEY:FILE[,KEY:FILE..]")]
    pub(crate) metadata: Option<String>,
    /// Show versions
    #[arg(long = "version", short = 'v')]
    pub(crate) show_version: bool,
    /// Print the summary as JSON
    #[arg(long = "json")]
    pub(crate) json: bool,
    /// Write the graph after each pass to this directory
    #[arg(long = "dump", value_name = "DIR")]
    pub(crate) dump: Option<PathBuf>,
    /// Keep layers that TensorFlow.js lacks instead of writing equivalents (layers models)
    #[arg(long = "no_lower", num_args = 0..=1, require_equals = true, default_missing_value = "true", default_value = "false", value_parser = truth, value_name = "BOOL")]
    pub(crate) no_lower: bool,
    /// Fail when a step loses something, such as 64-bit integers that do not fit 32 bits
    #[arg(long = "strict")]
    pub(crate) strict: bool,
}

fn input_formats() -> impl TypedValueParser<Value = InputFormat> {
    PossibleValuesParser::new(InputFormat::ALL.map(InputFormat::name))
        .try_map(|name| InputFormat::from_name(&name).ok_or("unknown format"))
}

fn output_formats() -> impl TypedValueParser<Value = OutputFormat> {
    PossibleValuesParser::new(OutputFormat::ALL.map(OutputFormat::name))
        .try_map(|name| OutputFormat::from_name(&name).ok_or("unknown format"))
}

fn truth(text: &str) -> Result<bool, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        // `--strip_debug_ops=` is the Python tool's only way to say false.
        "false" | "0" | "no" | "off" | "" => Ok(false),
        _ => Err("expected True or False"),
    }
}

impl ConvertArgs {
    /// Which path was not given.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        match (&self.input_path, &self.output_path) {
            _ if self.show_version => None,
            (None, _) => Some("input"),
            (_, None) => Some("output"),
            _ => None,
        }
    }

    /// What is meant.
    ///
    /// # Errors
    /// When flags exclude each other or are malformed.
    pub(crate) fn options(&self) -> Result<ConvertOptions, CliError> {
        let list = |text: &str| -> Vec<String> {
            text.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect()
        };
        let weight_shard_size_bytes = match self.weight_shard_size_bytes {
            None => None,
            Some(bytes) => Some(u64::try_from(bytes).map_err(|_| CliError::ShardSize { bytes })?),
        };
        let input = self.input_path.clone().unwrap_or_default();
        let guess = || InputFormat::guess(&input, self.output_format);
        Ok(ConvertOptions {
            input_format: self.input_format.unwrap_or_else(guess),
            input,
            output: self.output_path.clone().unwrap_or_default(),
            output_format: self.output_format,
            signature_name: self.signature_name.clone(),
            saved_model_tags: list(&self.saved_model_tags),
            quantization: self.quantization()?,
            split_weights_by_layer: self.split_weights_by_layer,
            skip_op_check: self.skip_op_check,
            strip_debug_ops: self.strip_debug_ops,
            use_structured_outputs_names: self.use_structured_outputs_names,
            weight_shard_size_bytes,
            output_node_names: self.output_node_names.as_deref().map(list).unwrap_or_default(),
            control_flow_v2: self.control_flow_v2,
            metadata: self.metadata()?,
            dump: self.dump.clone(),
            no_lower: self.no_lower,
            strict: self.strict,
        })
    }

    fn quantization(&self) -> Result<QuantizationMap, CliError> {
        let mut map = QuantizationMap::default();
        let flags = [
            (QuantizeTo::Float16, &self.quantize_float16),
            (QuantizeTo::Uint8, &self.quantize_uint8),
            (QuantizeTo::Uint16, &self.quantize_uint16),
        ];
        for (to, flag) in flags {
            if let Some(patterns) = flag {
                map.add(to, patterns.as_deref())?;
            }
        }
        if let Some(bytes) = self.quantization_bytes {
            map.add_bytes(bytes)?;
        }
        Ok(map)
    }

    fn metadata(&self) -> Result<Vec<(String, PathBuf)>, CliError> {
        let items = self.metadata.as_deref().unwrap_or_default().split(',').filter(|item| !item.is_empty());
        items
            .map(|item| match item.split_once(':') {
                Some((key, path)) if !key.is_empty() && !path.is_empty() => Ok((key.to_owned(), path.into())),
                _ => Err(CliError::Metadata { item: item.to_owned() }),
            })
            .collect()
    }
}

/// The arguments with whole flag names, values attached by `=`, and paths where clap looks for them.
pub(crate) fn normalised(args: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut args = args.into_iter().peekable();
    let mut items: Vec<Item> = Vec::new();
    while let Some(arg) = args.next() {
        if arg == "--" {
            items.extend(args.by_ref().map(Item::Path));
            break;
        }
        let Some((typed, value)) = arg.to_str().and_then(|text| text.strip_prefix("--")).map(split_value)
        else {
            items.push(if is_flag(&arg) { Item::Flag(arg) } else { Item::Path(arg) });
            continue;
        };
        let Some((name, kind)) = resolve(typed) else {
            items.push(Item::Flag(arg)); // clap says what is wrong with it
            continue;
        };
        if let Some(value) = value {
            items.push(Item::Flag(format!("--{name}={value}").into()));
            continue;
        }
        let next = args.next_if(|next| match kind {
            Kind::Value | Kind::Optional => !is_flag(next),
            Kind::Bool => name != "help" && name != "version" && next.to_str().is_some_and(is_truth),
        });
        match (kind, next) {
            (_, None) => items.push(Item::Flag(format!("--{name}").into())),
            (Kind::Optional, Some(word)) => items.push(Item::Either(name, word)),
            (_, Some(word)) => items.push(Item::Flag(joined(name, &word))),
        }
    }
    settle(&mut items);
    let (mut flags, mut paths) = (Vec::new(), Vec::new());
    for item in items {
        match item {
            Item::Flag(flag) => flags.push(flag),
            Item::Path(path) => paths.push(path),
            Item::Either(name, pattern) => flags.push(joined(name, &pattern)),
        }
    }
    if !paths.is_empty() {
        flags.push("--".into());
    }
    flags.append(&mut paths);
    flags
}

enum Item {
    Flag(OsString),
    Path(OsString),
    /// A flag whose value may be left out, and the word behind it: its value, or a path.
    Either(&'static str, OsString),
}

/// Decides which words behind `--quantize_*` are paths: as many as are missing to make two, patterns never.
fn settle(items: &mut Vec<Item>) {
    let paths = items.iter().filter(|item| matches!(item, Item::Path(_))).count();
    let pattern = |word: &OsStr| word.to_string_lossy().contains(['*', '?', '[', ',']);
    let free = |item: &Item| matches!(item, Item::Either(_, word) if !pattern(word));
    let chosen: HashSet<usize> =
        (0..items.len()).rev().filter(|&i| free(&items[i])).take(2usize.saturating_sub(paths)).collect();
    *items = std::mem::take(items)
        .into_iter()
        .enumerate()
        .flat_map(|(i, item)| match item {
            Item::Either(name, word) if chosen.contains(&i) => {
                vec![Item::Flag(format!("--{name}").into()), Item::Path(word)]
            }
            other => vec![other],
        })
        .collect();
}

fn joined(name: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{name}="));
    flag.push(value);
    flag
}

fn split_value(text: &str) -> (&str, Option<&str>) {
    text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)))
}

/// As `argparse` sees it: a dash alone and negative numbers are values.
fn is_flag(arg: &OsStr) -> bool {
    let text = arg.to_string_lossy();
    text.len() > 1 && text.starts_with('-') && text.parse::<f64>().is_err()
}

fn is_truth(text: &str) -> bool {
    !text.is_empty() && truth(text).is_ok()
}

/// The flag of this name, or the only one that begins like it. Hyphens do for underscores.
fn resolve(typed: &str) -> Option<(&'static str, Kind)> {
    let typed = typed.replace('-', "_");
    if let Some(&flag) = FLAGS.iter().find(|(name, _)| *name == typed) {
        return Some(flag);
    }
    let mut matching = FLAGS[..OF_PYTHON].iter().filter(|(name, _)| name.starts_with(&typed));
    match (matching.next(), matching.next()) {
        (Some(&flag), None) if !typed.is_empty() => Some(flag),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use clap::Parser;
    use tfjs_convert::{InputFormat, OutputFormat};
    use tfjs_format::QuantizeTo;

    use super::{ConvertArgs, Converter, normalised};

    fn parse(args: &[&str]) -> Result<ConvertArgs, clap::Error> {
        let args = normalised(args.iter().map(OsString::from));
        Converter::try_parse_from(std::iter::once("tensorflowjs_converter".into()).chain(args))
            .map(|c| c.args)
    }

    #[test]
    fn flags_and_paths_come_in_any_order() {
        let args =
            parse(&["--input_format", "tf_hub", "in dir", "--output_format=tfjs_graph_model", "out dir"])
                .unwrap();
        assert_eq!(args.input_format, Some(InputFormat::TfHub));
        assert_eq!(args.output_format, Some(OutputFormat::TfjsGraphModel));
        assert_eq!(args.input_path.as_deref(), Some("in dir"));
        assert_eq!(args.output_path.as_deref().and_then(|p| p.to_str()), Some("out dir"));
    }

    #[test]
    fn flags_may_be_abbreviated_as_argparse_allows() {
        let args = parse(&["--input_f=keras", "--sig", "s", "--st=False", "--weight 7", "a", "b"]);
        assert!(args.is_err(), "a space belongs between flag and value, not within");
        let args =
            parse(&["--input_f=keras", "--sig", "s", "--st=False", "--weight", "7", "a", "b"]).unwrap();
        assert_eq!(args.input_format, Some(InputFormat::Keras));
        assert_eq!(args.signature_name.as_deref(), Some("s"));
        assert!(!args.strip_debug_ops);
        assert_eq!(args.weight_shard_size_bytes, Some(7));
        assert!(parse(&["--quant", "a", "b"]).is_err(), "several flags begin like this");
        assert!(
            parse(&["--str", "a", "b"]).is_ok(),
            "--strip_debug_ops, as --strict is no flag of the Python tool"
        );
    }

    #[test]
    fn a_bare_quantization_flag_leaves_the_paths_alone() {
        for args in [
            &["--quantize_float16", "in", "out"][..],
            &["in", "--quantize_float16", "out"],
            &["in", "out", "--quantize_float16"],
        ] {
            let args = parse(args).unwrap();
            assert_eq!(args.input_path.as_deref(), Some("in"));
            assert_eq!(args.output_path.as_deref().and_then(|p| p.to_str()), Some("out"));
            let map = args.quantization().unwrap();
            assert_eq!((map.fallthrough, map.patterns), (Some(QuantizeTo::Float16), vec![]));
        }
    }

    #[test]
    fn quantization_patterns_come_with_or_without_an_equals_sign() {
        for args in [
            &["--quantize_uint8=conv/*,dense", "in", "out"][..],
            &["--quantize_uint8", "conv/*,dense", "in", "out"],
            &["in", "out", "--quantize_uint8", "conv/*,dense"],
        ] {
            let map = parse(args).unwrap().quantization().unwrap();
            let patterns = vec!["conv/*".to_owned(), "dense".to_owned()];
            assert_eq!(map.patterns, vec![(QuantizeTo::Uint8, patterns)]);
        }
        let both = parse(&["--quantize_uint8", "dense", "--quantize_float16", "in", "out"]).unwrap();
        assert_eq!(both.input_path.as_deref(), Some("in"));
        assert_eq!(both.quantize_uint8, Some(Some("dense".to_owned())));
        assert_eq!(both.quantize_float16, Some(None));
        let pattern = parse(&["in", "--quantize_uint8", "conv/*"]).unwrap();
        assert!(pattern.output_path.is_none(), "a pattern is no path");
    }

    #[test]
    fn false_means_false() {
        for text in ["--strip_debug_ops=False", "--strip_debug_ops=", "--strip_debug_ops=0"] {
            assert!(!parse(&[text, "a", "b"]).unwrap().strip_debug_ops, "{text}");
        }
        assert!(!parse(&["--strip_debug_ops", "false", "a", "b"]).unwrap().strip_debug_ops);
        assert!(!parse(&["--skip_op_check=False", "a", "b"]).unwrap().skip_op_check);
        assert!(parse(&["--skip_op_check", "a", "b"]).unwrap().skip_op_check);
        assert!(parse(&["--control_flow_v2", "a", "b"]).unwrap().control_flow_v2);
        assert!(parse(&["--control_flow_v2=maybe", "a", "b"]).is_err());
    }

    #[test]
    fn the_last_of_repeated_flags_counts() {
        let args = parse(&["--signature_name=a", "--signature_name=b", "x", "y"]).unwrap();
        assert_eq!(args.signature_name.as_deref(), Some("b"));
    }

    #[test]
    fn what_argparse_refuses_is_refused_with_exit_code_2() {
        for args in [
            &["--input_format=onnx", "a", "b"][..],
            &["--quantization_bytes=3", "a", "b"],
            &["--weight_shard_size_bytes=many", "a", "b"],
            &["--input_format"],
            &["--frobnicate", "a", "b"],
            &["a", "b", "c"],
        ] {
            assert_eq!(parse(args).unwrap_err().exit_code(), 2, "{args:?}");
        }
    }

    #[test]
    fn metadata_is_a_list_of_keys_and_files() {
        let args = parse(&["--metadata=a:x.json,b:dir/y.json", "in", "out"]).unwrap();
        let expected = [("a".to_owned(), "x.json".into()), ("b".to_owned(), "dir/y.json".into())];
        assert_eq!(args.options().unwrap().metadata, expected);
        assert!(parse(&["--metadata=a", "in", "out"]).unwrap().options().is_err());
    }

    #[test]
    fn old_and_new_quantization_flags_exclude_each_other() {
        let args = parse(&["--quantization_bytes=1", "--quantize_uint8=*", "in", "out"]).unwrap();
        let message = args.options().unwrap_err().to_string();
        assert_eq!(message, "--quantization_bytes cannot be used with the new quantization flags");
        let args = parse(&["--quantize_uint8", "--quantize_float16", "in", "out"]).unwrap();
        let message = args.options().unwrap_err().to_string();
        assert_eq!(message, "More than one quantization fallthrough provided, exactly one is supported");
        let args = parse(&["--weight_shard_size_bytes", "-1", "in", "out"]).unwrap();
        let message = args.options().unwrap_err().to_string();
        assert_eq!(message, "Expected weight_shard_size_bytes to be a positive integer, but got -1");
    }
}

//! `tfjs evaluate`

use serde_json::{Map, Value};

use super::train::{compile, number, open};
use crate::{CliError, args::EvaluateArgs, data::Data, show};

/// `tfjs evaluate`
pub(crate) fn run(args: &EvaluateArgs) -> Result<String, CliError> {
    crate::load::with_threads(args.data.threads, || {
        let mut model = open(&args.model)?;
        let mut data = Data::read(&args.data, &model)?;
        let notes = compile(&mut model, &mut data, &args.data, &args.model, (None, None))?;
        if !args.data.json {
            for note in notes.iter().filter(|n| !n.starts_with("optimizer adam")) {
                eprintln!("{note}");
            }
        }
        let samples = data.samples();
        if let Data::Arrays(batch) = &data {
            model.check_data(batch, args.data.batch_size.get())?;
        }
        let logs = model.evaluate_dataset(data.batches(args.data.batch_size).as_mut(), None)?;
        if args.data.json {
            let mut object = Map::new();
            object.insert("samples".to_owned(), samples.into());
            object.extend(logs.iter().map(|(name, v)| (name.to_owned(), number(v))));
            return show::json(&Value::Object(object));
        }
        Ok(logs.iter().map(|(name, v)| format!("{name}: {v:.6}\n")).collect())
    })
}

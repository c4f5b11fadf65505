//! Which weight of a file belongs to which weight of a layer.
//!
//! Every dialect has its own rule: TF.js goes by names, legacy `.h5` files by the position within a layer, Keras 3 and
//! SavedModels by paths of objects.

use std::collections::{BTreeMap, HashMap};

use tfjs_graph::Constant;
use tracing::debug;

use crate::{
    LayersError, Network, Params, StoredWeight, StoredWeights, Weight, WeightId, weights::snake_case,
};

type Result<T> = std::result::Result<T, LayersError>;

/// Gives the weights of `network` their values.
///
/// # Errors
/// When a shape differs; with `strict` also when weights are missing or left over.
pub(crate) fn assign(
    network: &Network,
    params: &mut Params,
    stored: &StoredWeights,
    strict: bool,
) -> Result<()> {
    let mut matched = Matched::default();
    match stored {
        StoredWeights::ByName(list) => by_name(params, list, &mut matched),
        StoredWeights::ByLayer(layers) => by_layer(network, params, layers, &mut matched),
        StoredWeights::ByPath(list) => by_path(network, params, list, &mut matched),
    }
    for (id, weight) in matched.found {
        let declared = params.get(id);
        let value = fit(declared, weight)?;
        params.set(id, value);
    }
    if strict {
        let missing: Vec<String> = params
            .weights
            .iter()
            .filter(|w| w.value.is_none() && !w.optional())
            .map(|w| w.keras.clone())
            .collect();
        if !missing.is_empty() {
            return Err(LayersError::MissingWeights { names: missing });
        }
        if !matched.left_over.is_empty() {
            return Err(LayersError::UnexpectedWeights { names: matched.left_over });
        }
    } else if !matched.left_over.is_empty() {
        debug!(names = ?matched.left_over, "weights that no layer takes are left out");
    }
    Ok(())
}

#[derive(Default)]
struct Matched<'w> {
    found: Vec<(WeightId, &'w StoredWeight)>,
    left_over: Vec<String>,
}

/// A value in the shape and type that the layer declares. Files may hold a scalar as `[1]` and the like.
fn fit(declared: &Weight, stored: &StoredWeight) -> Result<Constant> {
    let shape = stored.value.shape();
    // A size of 0 is any size.
    let fits = |(&want, &got): (&usize, &usize)| want == 0 || want == got;
    if shape.len() == declared.shape.len() && declared.shape.iter().zip(shape).all(fits) {
        return Ok(stored.value.clone());
    }
    let squeezed = |s: &[usize]| s.iter().copied().filter(|&d| d != 1).collect::<Vec<_>>();
    if squeezed(shape) == squeezed(&declared.shape) {
        let target = declared.shape.clone();
        let inner = target.clone();
        return Ok(stored.value.map(target, move |t| Ok(t.reshape(&inner[..])?)));
    }
    Err(LayersError::WeightShape {
        weight: stored.name.clone(),
        got: shape.to_vec(),
        expected: declared.shape.clone(),
    })
}

/// TF.js: the name, the name without its last scope (`lstm/lstm_cell/kernel` is `lstm/kernel`), Keras's name for it; then
/// without leading scopes (`sequential/dense/kernel`).
fn by_name<'w>(params: &Params, list: &'w [StoredWeight], matched: &mut Matched<'w>) {
    let mut taken = vec![false; params.weights.len()];
    let mut open: Vec<&StoredWeight> = list.iter().collect();
    // The most exact rule takes its weights first, over all names, so that a loose one cannot steal them.
    let rules: [fn(&str) -> Option<String>; 4] = [
        |n| Some(n.to_owned()),
        without_last_scope,
        |n| n.split_once('/').map(|(_, rest)| rest.to_owned()),
        |n| without_last_scope(n.split_once('/')?.1),
    ];
    for rule in rules {
        let mut index: HashMap<&str, Vec<usize>> = HashMap::new();
        for (i, w) in params.weights.iter().enumerate().filter(|(i, _)| !taken[*i]) {
            index.entry(&w.tfjs).or_default().push(i);
            if w.keras != w.tfjs {
                index.entry(&w.keras).or_default().push(i);
            }
        }
        open.retain(|stored| {
            let name = rule(&stored.name);
            let candidates = name.and_then(|n| index.get(n.as_str()));
            let fits =
                |i: &&usize| !taken[**i] && same_elements(&params.weights[**i].shape, stored.value.shape());
            let free = |i: &&usize| !taken[**i];
            let hit = candidates.and_then(|c| c.iter().find(fits).or_else(|| c.iter().find(free))).copied();
            if let Some(i) = hit {
                taken[i] = true;
                matched.found.push((WeightId(i), stored));
            }
            hit.is_none()
        });
    }
    matched.left_over.extend(open.iter().map(|w| w.name.clone()));
}

fn same_elements(a: &[usize], b: &[usize]) -> bool {
    a.iter().product::<usize>() == b.iter().product::<usize>()
}

/// A name without the scope before its last part: TF.js finds `lstm/lstm_cell/kernel` as `lstm/kernel`.
pub(crate) fn without_last_scope(name: &str) -> Option<String> {
    let (rest, last) = name.rsplit_once('/')?;
    let (scope, _) = rest.rsplit_once('/')?;
    Some(format!("{scope}/{last}"))
}

/// Legacy `.h5`: position within each layer of the model, trained weights first, as Keras itself reads them.
fn by_layer<'w>(
    network: &Network,
    params: &Params,
    layers: &'w [(String, Vec<StoredWeight>)],
    matched: &mut Matched<'w>,
) {
    for (layer, stored) in layers {
        let node = network.config.layers.iter().position(|l| l.name == *layer).map(|i| &network.nodes[i]);
        let Some(node) = node else {
            matched.left_over.extend(stored.iter().map(|w| w.name.clone()));
            continue;
        };
        let mut ids: Vec<usize> = node.weights.clone().collect();
        ids.sort_by_key(|&i| !params.weights[i].trainable); // stable
        if ids.len() != stored.len() {
            // Files leave out what older versions did not have, such as the state of random generators.
            ids.retain(|&i| !params.weights[i].optional());
        }
        assign_in_order(params, &ids, stored, matched);
    }
}

/// One after the other where shapes fit; where they do not, by the ends of their names.
fn assign_in_order<'w>(
    params: &Params,
    ids: &[usize],
    stored: &'w [StoredWeight],
    matched: &mut Matched<'w>,
) {
    let fits = |i: usize, w: &StoredWeight| same_elements(&params.weights[i].shape, w.value.shape());
    let last = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let in_place = ids.len() == stored.len() && ids.iter().zip(stored).all(|(&i, w)| fits(i, w));
    // The same shapes in another order would fit too; the names tell.
    let names_differ = ids.iter().zip(stored).any(|(&i, w)| last(&params.weights[i].keras) != last(&w.name));
    let mut own: Vec<String> = ids.iter().map(|&i| last(&params.weights[i].keras)).collect();
    let mut theirs: Vec<String> = stored.iter().map(|w| last(&w.name)).collect();
    own.sort();
    theirs.sort();
    if in_place && !(names_differ && own == theirs) {
        matched.found.extend(ids.iter().zip(stored).map(|(&i, w)| (WeightId(i), w)));
        return;
    }
    let mut free: Vec<usize> = ids.to_vec();
    for weight in stored {
        let score = |i: usize| {
            let w = &params.weights[i];
            common_end(&w.keras, &weight.name).max(common_end(&w.tfjs, &weight.name))
        };
        let best = free
            .iter()
            .enumerate()
            .filter(|&(_, &i)| fits(i, weight))
            .max_by_key(|&(at, &i)| (score(i), std::cmp::Reverse(at)))
            .map(|(at, _)| at)
            // Nothing fits: the one in place, so that the error names both shapes.
            .or_else(|| free.iter().position(|&i| last(&params.weights[i].keras) == last(&weight.name)));
        match best {
            Some(at) => matched.found.push((WeightId(free.remove(at)), weight)),
            None => matched.left_over.push(weight.name.clone()),
        }
    }
}

/// Number of path segments that two names share at their ends.
fn common_end(a: &str, b: &str) -> usize {
    a.rsplit('/').zip(b.rsplit('/')).take_while(|(x, y)| x == y).count()
}

/// Keras 3: `layers/<class in snake case, numbered>/<attributes>/vars/<index>`, models inside likewise; SavedModels:
/// `layers/<name of the layer>/<attributes>/<variable>`.
fn by_path<'w>(network: &Network, params: &Params, list: &'w [StoredWeight], matched: &mut Matched<'w>) {
    let mut places = Places::default();
    collect_places(network, params, "", "", false, &mut places);
    for weight in list {
        let path = normal(&weight.name);
        match places.read.get(&path) {
            Some(&i) => matched.found.push((WeightId(i), weight)),
            None if is_bookkeeping(&path) => {}
            None => matched.left_over.push(weight.name.clone()),
        }
    }
    matched.found.sort_by_key(|(id, _)| *id);
    matched.found.dedup_by_key(|(id, _)| *id);
}

/// Variables of a file that are no weights of layers: optimizers, metrics, seeds of random generators.
fn is_bookkeeping(path: &str) -> bool {
    let first = path.split('/').next().unwrap_or_default();
    matches!(first, "optimizer" | "metrics" | "vars" | "loss" | "compile_metrics" | "train_metrics")
        || path.split('/').any(|s| s.contains("seed_generator") || s == "random_generator")
        // TextVectorization stores what its lookup holds twice.
        || path.contains("/lookup_layer/vars/")
        // What adapting counts.
        || path.ends_with("/num_documents")
}

/// Attribute names differ between versions by leading underscores.
fn normal(path: &str) -> String {
    let path = path.replace("_layer_checkpoint_dependencies/", "layers/");
    path.split('/').map(|s| s.trim_start_matches('_')).filter(|s| !s.is_empty()).collect::<Vec<_>>().join("/")
}

/// Where weights are stored, by their index.
#[derive(Default)]
struct Places {
    /// All paths that are read.
    read: HashMap<String, usize>,
    /// Those of Keras 3, which are written.
    written: BTreeMap<usize, String>,
    /// Second copies.
    copies: Vec<(String, usize)>,
}

/// The paths of all weights of a network. `numbered` and `named` are those of the network itself: by class and number
/// (Keras 3), and by the names of layers (SavedModels). A file that is read has its layers in the order of their numbers;
/// with `reorder` they get the numbers that Keras will give them.
fn collect_places(
    network: &Network,
    params: &Params,
    numbered: &str,
    named: &str,
    reorder: bool,
    places: &mut Places,
) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let count = network.nodes.len();
    let order = if reorder { network.config.keras_order() } else { (0..count).collect() };
    for (config, node) in order.into_iter().map(|i| (&network.config.layers[i], &network.nodes[i])) {
        if config.implied {
            continue;
        }
        let class = match config.class_name.as_str() {
            // The class is called otherwise than it is registered.
            "GroupQueryAttention" => "grouped_query_attention".to_owned(),
            name => snake_case(name),
        };
        let n = counts.entry(class.clone()).or_default();
        let number = if *n == 0 { String::new() } else { format!("_{n}") };
        *n += 1;
        let numbered = format!("{numbered}layers/{class}{number}/");
        let named = format!("{named}layers/{}/", config.name);
        if let Some(inner) = node.layer.network() {
            let held = node.layer.held_as();
            let inside = |p: &str| if held.is_empty() { p.to_owned() } else { format!("{p}{held}/") };
            collect_places(inner, params, &inside(&numbered), &inside(&named), reorder, places);
            if held.is_empty() {
                continue;
            }
        }
        // Index of a variable among those of its object.
        let mut indices: HashMap<&str, usize> = HashMap::new();
        let depth = params.weights.get(node.weights.start).map_or(0, |w| w.layer.len());
        for i in node.weights.clone() {
            let weight = &params.weights[i];
            if weight.layer.len() != depth {
                continue; // of a model inside
            }
            for listed in params.listed.iter().filter(|l| l.before == i && node.weights.contains(&l.id.0)) {
                let index = indices.entry(&listed.object).or_default();
                let object =
                    if listed.object.is_empty() { String::new() } else { format!("{}/", listed.object) };
                let path = format!("{numbered}{object}vars/{index}");
                places.read.entry(normal(&path)).or_insert(listed.id.0);
                places.copies.push((path, listed.id.0));
                *index += 1;
            }
            let (object, _) = weight.object.rsplit_once('/').unwrap_or(("", &weight.object));
            let index = indices.entry(object).or_default();
            let object = if object.is_empty() { String::new() } else { format!("{object}/") };
            // Lookups name their weights instead of numbering them.
            let key = if weight.object.ends_with("idf_weights") {
                "idf_weights".to_owned()
            } else {
                index.to_string()
            };
            let path = format!("{numbered}{object}vars/{key}");
            places.read.entry(normal(&path)).or_insert(i);
            places.read.entry(normal(&format!("{named}{}", weight.object))).or_insert(i);
            if weight.object == "idf_weights" {
                // TextVectorization leaves them to its lookup.
                places.read.entry(normal(&format!("{named}lookup_layer/idf_weights"))).or_insert(i);
                if class == "text_vectorization" {
                    places.copies.push((format!("{numbered}_lookup_layer/vars/idf_weights"), i));
                }
            }
            places.written.entry(i).or_insert(path);
            *index += 1;
        }
    }
}

/// The path of each weight in a `.keras` file, with its index in `params`, in the order of the layers.
pub(crate) fn object_paths(network: &Network, params: &Params) -> Vec<(String, usize)> {
    let mut places = Places::default();
    collect_places(network, params, "", "", true, &mut places);
    places.written.into_iter().map(|(i, path)| (path, i)).chain(places.copies).collect()
}

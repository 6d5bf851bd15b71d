//! Who may ask for which LoRA adapter.
//!
//! An adapter's name is a model name, so a key grants it as it grants a model. A request may also come
//! for the model itself and list adapters by `lora`: then the key must grant each of them, too, or it
//! would reach by a list what it may not by name.

use domain::{ChatRequest, Fault, LoraEntry, Principal, Tier, lora};

use crate::roster::{Asked, Roster};

const NOT_GRANTED: &str =
    "this key does not grant an adapter that `lora` lists; it must be among the models of the key";

/// Checks the adapters that `request` lists against what `principal` may use, of every engine that may
/// answer what it `asked`. Other machines' adapters are not known here: a pool or an upstream is granted
/// with all it has.
///
/// # Errors
/// [`Fault::Forbidden`] when one is not granted. A list that nobody can read is left to the engine,
/// which refuses it.
pub fn check_adapters(
    principal: &Principal,
    request: &ChatRequest,
    asked: &Asked,
    roster: &Roster,
) -> Result<(), Fault> {
    if principal.models.is_none() {
        return Ok(());
    }
    let Ok(Some(entries)) = lora(&request.extra) else {
        return Ok(());
    };
    let may_answer = |backend: usize| match asked {
        Asked::Auto => true,
        Asked::Exactly(targets) => targets.iter().any(|target| target.backend == backend),
    };
    let engines = (0..roster.backends.len())
        .filter(|backend| may_answer(*backend))
        .map(|backend| roster.card(backend))
        .filter(|card| card.tier == Tier::Engine);
    for card in engines {
        let is_granted = |entry: &LoraEntry| {
            let found = entry.adapter.find(card.adapters());
            entry.is_off() || found.is_none_or(|(_, name)| principal.may_use(&name.into()))
        };
        if !entries.iter().all(is_granted) {
            return Err(Fault::Forbidden { what: NOT_GRANTED });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use domain::{Abilities, BackendCard, Extra, Health, ModelAlias, ModelCard, Trust};
    use serde_json::{Value, json};

    use super::*;
    use crate::roster::{RosterEntry, resolve};

    fn entry(name: &str, tier: Tier, models: &[&str]) -> RosterEntry {
        let models = models.iter().map(|name| ModelCard {
            name: (*name).to_owned(),
            context_tokens_max: None,
            abilities: Abilities::all(),
        });
        RosterEntry {
            card: Arc::new(BackendCard {
                name: name.into(),
                tier,
                is_sealed: false,
                trust: Trust::Device,
                models: models.collect(),
            }),
            health: Health::READY,
        }
    }

    fn roster() -> Roster {
        Roster {
            backends: vec![
                entry("local", Tier::Engine, &["base", "pirate", "formal"]),
                entry("big", Tier::Engine, &["big", "legal"]),
                entry("gpu", Tier::Pool, &["llama", "other"]),
            ],
            aliases: Arc::new([("quick".to_owned(), vec!["base".to_owned()])].into()),
            ..Roster::default()
        }
    }

    fn check(granted: &[&str], model: &str, lora: Value) -> Result<(), Fault> {
        let request = ChatRequest {
            extra: Extra::from_iter([("lora".to_owned(), lora)]),
            ..ChatRequest::new(model, Vec::new())
        };
        let principal = Principal {
            models: Some(granted.iter().copied().map(ModelAlias::new).collect()),
            ..Principal::anyone()
        };
        let asked = resolve(&request.model, &roster()).unwrap();
        check_adapters(&principal, &request, &asked, &roster())
    }

    #[test]
    fn each_adapter_on_the_list_must_be_granted() {
        let (first, both) = (json!([{"id": 0}]), json!([{"id": 0}, {"name": "formal"}]));
        let named = json!([{"name": "pirate", "scale": 0.5}]);
        let off = json!([{"id": 0, "scale": 0.0}, {"id": 1}]);
        let cases: [(&[&str], &str, &Value, bool); 16] = [
            (&["base"], "base", &json!([]), true),
            (&["base"], "base", &Value::Null, true),
            (&["base"], "base", &first, false),
            (&["base"], "base", &named, false),
            (&["base", "pirate"], "base", &first, true),
            (&["base", "pirate"], "base", &named, true),
            (&["base", "pirate"], "base", &both, false),
            (&["base", "formal"], "base", &off, true),
            (&["local"], "local", &first, false),
            (&["quick"], "quick", &first, false),
            (&["quick", "pirate"], "quick", &first, true),
            // Any of them may answer, and the same id is another adapter of each.
            (&["auto", "pirate"], "auto", &first, false),
            (&["auto", "pirate", "legal"], "auto", &first, true),
            // There is none such; whoever answers says so.
            (
                &["base"],
                "base",
                &json!([{"id": 2}, {"name": "legal"}]),
                true,
            ),
            (&["base"], "base", &json!({"id": 0}), true),
            // Not known here.
            (&["gpu"], "gpu", &first, true),
        ];
        for (granted, model, lora, is_granted) in cases {
            let checked = check(granted, model, lora.clone());
            assert_eq!(checked.is_ok(), is_granted, "{granted:?} {model} {lora}");
        }
    }
}

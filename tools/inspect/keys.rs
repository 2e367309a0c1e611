//! The keys of `--json`, as `--help` explains them. Tests hold each list against what is printed.

use std::fmt::Write as _;

/// Keys and what they say; `a.b` is `b` in the object (or each object of the list) `a`.
pub(super) type Keys = &'static [(&'static str, &'static str)];

/// The last part of a `--help`.
pub(super) fn help(keys: Keys, exit_codes: &str) -> String {
    let mut help = String::from("JSON: --json prints one object with these keys, all of them always.\n\n");
    for (key, text) in keys {
        writeln!(help, "  {key}: {text}").expect("a string takes everything");
    }
    write!(help, "\nExit codes: {exit_codes}").expect("a string takes everything");
    help
}

/// What `report` prints with `--json`.
pub(super) fn json(report: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(report).expect("plain data always serialises")
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    /// Every key in `value`, with the keys that lead to it.
    fn printed(value: &Value, before: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(object) => {
                for (key, value) in object {
                    let key = if before.is_empty() { key.clone() } else { format!("{before}.{key}") };
                    printed(value, &key, found);
                    found.insert(key);
                }
            }
            Value::Array(values) => values.iter().for_each(|value| printed(value, before, found)),
            _ => {}
        }
    }

    /// Fails unless `report`, in which no list is empty and nothing is null that has keys, has these keys.
    pub(crate) fn assert_explained(report: &impl serde::Serialize, keys: super::Keys) {
        let mut found = BTreeSet::new();
        printed(&serde_json::to_value(report).expect("plain data"), "", &mut found);
        let explained: BTreeSet<String> = keys.iter().map(|(key, _)| (*key).to_string()).collect();
        assert_eq!(found, explained);
    }
}

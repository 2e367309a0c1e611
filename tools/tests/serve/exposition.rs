//! OpenMetrics' text format, read as strictly as its specification is written, and Prometheus' rules for names.

use std::collections::{BTreeMap, BTreeSet};

/// One answer to a scrape: values by name and labels, as they were written.
#[derive(Debug)]
pub(crate) struct Exposition {
    values: BTreeMap<String, f64>,
    kinds: BTreeMap<String, String>,
}

impl Exposition {
    /// Reads `text`; whatever is wrong in it is a panic that shows it.
    pub(crate) fn read(text: &str) -> Self {
        let mut read = Self { values: BTreeMap::new(), kinds: BTreeMap::new() };
        let lines = text.strip_suffix("# EOF\n").expect("the end is marked");
        let mut family = Family::default();
        for line in lines.lines() {
            if let Some(rest) = line.strip_prefix("# ") {
                let (what, rest) = rest.split_once(' ').expect(line);
                let (name, said) = rest.split_once(' ').expect(line);
                family.describe(what, name, said, &read.kinds);
                if what == "TYPE" {
                    read.kinds.insert(name.into(), said.into());
                }
            } else {
                let (series, value) = line.rsplit_once(' ').expect(line);
                family.check(series);
                let value = value.parse().expect(line);
                assert!(read.values.insert(series.into(), value).is_none(), "twice: {series}");
            }
        }
        read.check_histograms();
        read
    }

    /// The value of `series`, such as `terrace_block_reads_total{tier="ram"}`.
    pub(crate) fn value(&self, series: &str) -> u64 {
        let value = self.values.get(series).unwrap_or_else(|| panic!("no {series} among {self:#?}"));
        assert!(value.fract() == 0.0, "{series} is {value}");
        *value as u64
    }

    pub(crate) fn has(&self, series: &str) -> bool {
        self.values.contains_key(series)
    }

    /// Of everything that may only grow.
    pub(crate) fn check_nothing_fell_since(&self, earlier: &Self) {
        for (series, before) in &earlier.values {
            let name = series.split('{').next().expect("there is a first part");
            let is_gauge = self.kinds.get(name).is_some_and(|kind| kind == "gauge");
            let now = self.values.get(series).unwrap_or_else(|| panic!("{series} is gone"));
            assert!(is_gauge || now >= before, "{series} fell from {before} to {now}");
        }
    }

    fn check_histograms(&self) {
        let buckets = self.values.iter().filter(|(series, _)| series.contains("_bucket{"));
        let mut before: Option<(String, f64, f64)> = None;
        let mut found: Vec<(String, f64, f64)> = buckets
            .map(|(series, &count)| {
                let (rest, end) = series.split_once("le=\"").expect("a bucket has an end");
                let (end, after) = end.split_once('"').expect("the label ends");
                (format!("{rest}{after}"), end.replace("+Inf", "inf").parse().expect("a number"), count)
            })
            .collect();
        found.sort_by(|one, other| one.0.cmp(&other.0).then(one.1.total_cmp(&other.1)));
        for bucket in found {
            let same = before.as_ref().filter(|(of, ..)| *of == bucket.0);
            assert!(same.is_none_or(|(_, end, count)| *end < bucket.1 && *count <= bucket.2), "{bucket:?}");
            if bucket.1.is_infinite() {
                let count = bucket.0.replace("_bucket{", "_count{").replace(",}", "}").replace("{,", "{");
                assert_eq!(self.values.get(&count), Some(&bucket.2), "{count}");
            }
            before = Some(bucket);
        }
    }
}

/// What was said of the metrics that come next.
#[derive(Default)]
struct Family {
    name: String,
    said: BTreeSet<String>,
    kind: String,
}

impl Family {
    fn describe(&mut self, what: &str, name: &str, said: &str, before: &BTreeMap<String, String>) {
        if name != self.name {
            assert!(!before.contains_key(name), "{name} is there twice");
            *self = Self { name: name.into(), ..Self::default() };
        }
        assert!(["HELP", "TYPE", "UNIT"].contains(&what), "{what}");
        assert!(self.said.insert(what.into()), "{what} of {name} is said twice");
        assert!(!said.is_empty() && name.starts_with("terrace_"), "{name}");
        assert!(name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'), "{name}");
        let no_base_unit = ["_ms", "_us", "_ns", "_kib", "_mib", "_milliseconds", "_count", "_total"];
        assert!(!no_base_unit.iter().any(|end| name.ends_with(end)), "{name}");
        match what {
            "TYPE" => self.kind = said.into(),
            "UNIT" => assert!(name.ends_with(&format!("_{said}")), "{name} is in {said}"),
            _ => assert!(said.starts_with(|c: char| c.is_ascii_uppercase() || c == '1'), "{name}: {said}"),
        }
    }

    fn check(&self, series: &str) {
        let (name, kind) = (series.split('{').next().expect("there is a first part"), self.kind.as_str());
        assert!(self.said.contains("HELP") && self.said.contains("TYPE"), "nothing is said of {series}");
        let suffix = name.strip_prefix(&self.name).unwrap_or_else(|| panic!("{series} is no {}", self.name));
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "gauge" => &[""],
            "info" => &["_info"],
            "histogram" => &["_sum", "_count", "_bucket"],
            _ => panic!("{series} is a {kind}"),
        };
        assert!(suffixes.contains(&suffix), "{series} is no {kind}");
        check_labels(&series[name.len()..]);
    }
}

/// Label values end where they should: what clients call an export cannot add lines or labels.
fn check_labels(text: &str) {
    let Some(text) = text.strip_prefix('{') else { return assert_eq!(text, "") };
    let mut rest = text.strip_suffix('}').expect("labels end");
    while !rest.is_empty() {
        let (key, value) = rest.split_once("=\"").expect("a label has a value");
        assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{text}");
        let mut end = None;
        let mut is_escaped = false;
        for (at, c) in value.char_indices() {
            match c {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = true,
                '"' => {
                    end = Some(at);
                    break;
                }
                _ => {}
            }
        }
        rest = &value[end.expect("a value ends") + 1..];
        rest = rest.strip_prefix(',').unwrap_or(rest);
    }
}

//! Several traces as one, in the order of time.
//!
//! Each reader is taken to be in that order, as far as it is: the next request is the earliest of those that stand first.
//! Traces without times cannot be merged. Memory: a request and a table of volumes a reader.

use std::collections::HashMap;

use super::{Lost, Request, TraceReader};
use crate::failure::{Failure, Result};

/// Which volumes of different traces are one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Mapping {
    /// Those that are called alike.
    ByName,
    /// None.
    Apart,
    /// Volume `from` of trace `trace` is volume `to` of all; what is not listed stays apart from everything.
    Given(Vec<Mapped>),
}

/// One line of a mapping, all counted from 0.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapped {
    pub(crate) trace: usize,
    pub(crate) from: u32,
    pub(crate) to: u32,
}

pub(crate) struct Merged {
    parts: Vec<Part>,
    mapping: Mapping,
    numbers: HashMap<String, u32>,
    names: Vec<String>,
}

struct Part {
    reader: Box<dyn TraceReader>,
    head: Option<(u64, Request)>,
    /// Subtracted from every time.
    begins_ns: u64,
    /// The volumes of this trace as those of all.
    volumes: HashMap<u32, u32>,
}

impl Merged {
    /// The requests of `readers` as they are stamped.
    pub(crate) fn new(readers: Vec<Box<dyn TraceReader>>, mapping: Mapping) -> Result<Self> {
        let part = |reader| Part { reader, head: None, begins_ns: 0, volumes: HashMap::new() };
        let parts = readers.into_iter().map(part).collect();
        let mut merged = Self { parts, mapping, numbers: HashMap::new(), names: Vec::new() };
        if let Mapping::Given(lines) = &merged.mapping {
            // Numbers that were given are kept free for those they were given to.
            let count = lines.iter().map(|line| line.to + 1).max().unwrap_or(0);
            merged.names = (0..count).map(|volume| volume.to_string()).collect();
        }
        for part in 0..merged.parts.len() {
            merged.advance(part)?;
        }
        Ok(merged)
    }

    /// The same, every trace from its own first request on.
    pub(crate) fn aligned(readers: Vec<Box<dyn TraceReader>>, mapping: Mapping) -> Result<Self> {
        let mut merged = Self::new(readers, mapping)?;
        for part in &mut merged.parts {
            if let Some((time, _)) = &mut part.head {
                part.begins_ns = std::mem::take(time);
            }
        }
        Ok(merged)
    }

    /// Takes the next request of a part to its head.
    fn advance(&mut self, part: usize) -> Result<()> {
        let Some(request) = self.parts[part].reader.next_request()? else {
            self.parts[part].head = None;
            return Ok(());
        };
        let Some(time) = request.time_ns else {
            return Err(Failure::input(format!("trace {} of those to be merged has no times", part + 1))
                .remedy("merge traces that have"));
        };
        let time = time.saturating_sub(self.parts[part].begins_ns);
        self.parts[part].head = Some((time, request));
        Ok(())
    }

    fn volume(&mut self, part: usize, volume: u32) -> u32 {
        if let Some(&number) = self.parts[part].volumes.get(&volume) {
            return number;
        }
        let own = self.parts[part].reader.volume_names().get(volume as usize);
        let own = own.filter(|name| !name.is_empty()).cloned().unwrap_or_else(|| volume.to_string());
        let apart = || format!("{}:{own}", part + 1);
        let given = match &self.mapping {
            Mapping::Given(lines) => lines.iter().find(|line| line.trace == part && line.from == volume),
            Mapping::ByName | Mapping::Apart => None,
        };
        let number = match given {
            Some(line) => line.to,
            None => {
                let name = if self.mapping == Mapping::ByName { own } else { apart() };
                let next = u32::try_from(self.names.len()).expect("each part has at most 2^16");
                *self.numbers.entry(name.clone()).or_insert_with(|| {
                    self.names.push(name);
                    next
                })
            }
        };
        self.parts[part].volumes.insert(volume, number);
        number
    }
}

impl TraceReader for Merged {
    fn next_request(&mut self) -> Result<Option<Request>> {
        let heads = self.parts.iter().enumerate();
        let earliest =
            heads.filter_map(|(part, state)| state.head.map(|(time, request)| (time, part, request)));
        let Some((time, part, request)) = earliest.min_by_key(|&(time, part, _)| (time, part)) else {
            return Ok(None);
        };
        let volume = self.volume(part, request.volume);
        self.advance(part)?;
        Ok(Some(Request { volume, time_ns: Some(time), ..request }))
    }

    fn skipped_commands(&self) -> u64 {
        self.parts.iter().map(|part| part.reader.skipped_commands()).sum()
    }

    fn lost(&self) -> Lost {
        let mut lost = Lost::default();
        self.parts.iter().for_each(|part| lost.add(part.reader.lost()));
        lost
    }

    fn volume_names(&self) -> &[String] {
        &self.names
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::Input;
    use super::super::{Format, Options};
    use super::*;

    fn fio(text: &str) -> Box<dyn TraceReader> {
        let text = format!("fio version 3 iolog\n{text}");
        Format::Fio.reader(Input::from_bytes(text.as_bytes()), &Options::default())
    }

    fn both() -> Vec<Box<dyn TraceReader>> {
        vec![fio("100 a read 0 1\n130 b read 0 2\n"), fio("110 b read 0 3\n120 a read 0 4\n")]
    }

    /// Time in microseconds, volume and length of each request, and the names of volumes.
    fn all(mut merged: Merged) -> (Vec<(u64, u32, u64)>, Vec<String>) {
        let mut found = Vec::new();
        while let Some(request) = merged.next_request().expect("good") {
            found.push((request.time_us().expect("it has"), request.volume, request.span.parts().1));
        }
        let names = merged.volume_names().to_vec();
        (found, names)
    }

    #[test]
    fn requests_come_in_the_order_of_time_and_volumes_of_one_name_are_one() {
        let (found, names) = all(Merged::new(both(), Mapping::ByName).expect("good"));
        assert_eq!(found, [(100, 0, 1), (110, 1, 3), (120, 0, 4), (130, 1, 2)]);
        assert_eq!(names, ["a", "b"]);
    }

    #[test]
    fn volumes_stay_apart_or_go_where_they_are_sent() {
        let (found, names) = all(Merged::new(both(), Mapping::Apart).expect("good"));
        assert_eq!(found, [(100, 0, 1), (110, 1, 3), (120, 2, 4), (130, 3, 2)]);
        assert_eq!(names, ["1:a", "2:b", "2:a", "1:b"]);
        // The second trace's `b` is its volume 0.
        let given = vec![Mapped { trace: 1, from: 0, to: 1 }, Mapped { trace: 0, from: 1, to: 1 }];
        let (found, names) = all(Merged::new(both(), Mapping::Given(given)).expect("good"));
        assert_eq!(found, [(100, 2, 1), (110, 1, 3), (120, 3, 4), (130, 1, 2)]);
        assert_eq!(names, ["0", "1", "1:a", "2:a"]);
    }

    #[test]
    fn aligned_traces_begin_together() {
        let (found, _) = all(Merged::aligned(both(), Mapping::ByName).expect("good"));
        assert_eq!(
            found.iter().map(|&(time, _, length)| (time, length)).collect::<Vec<_>>(),
            [(0, 1), (0, 3), (10, 4), (30, 2)]
        );
    }

    #[test]
    fn a_trace_without_times_is_refused() {
        let ids = Format::Ids.reader(Input::from_bytes(b"1\n"), &Options::default());
        let Err(failure) = Merged::new(vec![fio(""), ids], Mapping::Apart) else { panic!("it has no times") };
        assert!(failure.to_string().contains("trace 2"), "{failure}");
    }
}

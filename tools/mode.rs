//! When a write is acknowledged, as commands are told and tell it.

use std::fmt;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use terrace::WriteMode;

/// When a write is acknowledged
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// After the disk has it, and no tier keeps a copy: for what is not read again soon
    Around,
    /// After the disk has it: no tier ever has anything that the disk lacks
    #[default]
    Through,
    /// After RAM has it; a flush returns when the disk has all, and a power cut before that loses it
    Back,
    /// After RAM has it; a flush returns when the SSD has all, which goes on to the disk later
    BackSsd,
}

impl From<Mode> for WriteMode {
    fn from(mode: Mode) -> Self {
        match mode {
            Mode::Around => Self::Around,
            Mode::Through => Self::Through,
            Mode::Back => Self::Back,
            Mode::BackSsd => Self::BackSsd,
        }
    }
}

impl From<WriteMode> for Mode {
    fn from(mode: WriteMode) -> Self {
        match mode {
            WriteMode::Around => Self::Around,
            WriteMode::Through => Self::Through,
            WriteMode::Back => Self::Back,
            WriteMode::BackSsd => Self::BackSsd,
        }
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.to_possible_value().expect("no mode is hidden").get_name())
    }
}

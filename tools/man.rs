//! `terrace man`: manual pages, made from the same text as `--help`.

use std::path::PathBuf;

use clap::Args;
use clap_mangen::Man;

use crate::failure::{Failure, Result};

/// Write manual pages, made from what --help says
#[derive(Args, Debug)]
pub(crate) struct ManArgs {
    /// The subcommand whose page is wanted, such as `serve`; without it the page of `terrace` itself
    #[arg(conflicts_with = "folder")]
    page: Option<String>,

    /// Write the pages of all subcommands to this folder, as terrace.1, terrace-serve.1 and so on
    #[arg(long, value_name = "DIR")]
    folder: Option<PathBuf>,
}

pub(crate) fn main(args: &ManArgs, command: clap::Command, print: impl Fn(&str)) -> Result<()> {
    if let Some(folder) = &args.folder {
        return clap_mangen::generate_to(command, folder).map_err(|error| {
            Failure::caused(format!("cannot write pages to {}", folder.display()), error)
                .remedy("name a folder that is there and that you may write to")
        });
    }
    let page = match &args.page {
        None => command,
        Some(name) => page_of(command, name)?,
    };
    let mut text = Vec::new();
    Man::new(page).render(&mut text).expect("memory takes everything");
    print(String::from_utf8_lossy(&text).trim_end());
    Ok(())
}

fn page_of(mut command: clap::Command, name: &str) -> Result<clap::Command> {
    command.build();
    let found = command.find_subcommand(name).cloned();
    found.ok_or_else(|| {
        Failure::input(format!("there is no subcommand {name}")).remedy("`terrace --help` lists them")
    })
}

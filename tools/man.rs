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

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use clap::CommandFactory as _;

    use super::*;

    fn page(name: Option<&str>) -> Result<String> {
        let text = RefCell::new(String::new());
        let args = ManArgs { page: name.map(String::from), folder: None };
        main(&args, crate::Arguments::command(), |page| text.borrow_mut().push_str(page))?;
        Ok(text.into_inner())
    }

    #[test]
    fn every_subcommand_has_a_page_of_its_own_with_its_flags() {
        for (name, flag) in
            [("serve", "stop\\-timeout"), ("ctl", "socket"), ("tune", "budget"), ("man", "folder")]
        {
            let text = page(Some(name)).expect("there is one");
            assert!(text.contains(&format!(".TH terrace-{name} 1")), "{name}: {text}");
            assert!(text.contains(flag), "{name} lacks {flag}");
        }
        assert!(page(None).expect("there is one").contains(".TH terrace 1"));
        let refused = page(Some("frob")).expect_err("there is none").to_string();
        assert_eq!(refused, "there is no subcommand frob; `terrace --help` lists them");
    }

    #[test]
    fn a_folder_gets_all_pages() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let args = ManArgs { page: None, folder: Some(folder.path().into()) };
        main(&args, crate::Arguments::command(), |_| {}).expect("it can be written to");
        for page in ["terrace.1", "terrace-serve.1", "terrace-ctl.1"] {
            assert!(folder.path().join(page).is_file(), "{page} is missing");
        }
    }
}

//! `terrace man`: manual pages, made from the same text as `--help`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Args;
use clap_mangen::Man;

use crate::failure::{Failure, Result};

/// What begins with this is shown as it is, line by line; other text is filled.
pub(crate) const VERBATIM: &str = "    ";

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
        return write_all(command, folder).map_err(|error| {
            Failure::caused(format!("cannot write pages to {}", folder.display()), error)
                .remedy("name a folder that is there and that you may write to")
        });
    }
    let page = match &args.page {
        None => command,
        Some(name) => page_of(command, name)?,
    };
    print(text_of(&Man::new(page)).trim_end());
    Ok(())
}

/// The pages of `command` and of all below it.
fn write_all(command: clap::Command, folder: &Path) -> io::Result<()> {
    fn write(command: &clap::Command, folder: &Path) -> io::Result<()> {
        let below = command.get_subcommands().filter(|below| !below.is_hide_set());
        below.into_iter().try_for_each(|below| write(below, folder))?;
        let page = Man::new(command.clone());
        fs::write(folder.join(page.get_filename()), text_of(&page))
    }
    let mut command = command.disable_help_subcommand(true);
    command.build();
    write(&command, folder)
}

fn text_of(page: &Man) -> String {
    let mut text = Vec::new();
    page.render(&mut text).expect("memory takes everything");
    let (mut set, mut is_verbatim) = (String::new(), false);
    for line in String::from_utf8_lossy(&text).lines() {
        // An empty line goes with those before it.
        let changes = if is_verbatim {
            !line.is_empty() && !line.starts_with(VERBATIM)
        } else {
            line.starts_with(VERBATIM)
        };
        if changes {
            set += if is_verbatim { ".fi\n" } else { ".nf\n" };
            is_verbatim = !is_verbatim;
        }
        set += line;
        set.push('\n');
    }
    if is_verbatim { set + ".fi\n" } else { set }
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
    fn a_file_in_a_page_is_not_filled_like_prose() {
        let text = page(Some("serve")).expect("there is one");
        let (before, after) = text.split_once(".nf\n").expect("it begins");
        let (file, after) = after.split_once(".fi").expect("it ends");
        assert!(before.ends_with("A whole file for \\-\\-config:\n\n"), "{before}");
        let file = file.replace("\\-", "-").replace("\\*(Aq", "'");
        let lines = |text: &str| text.trim().lines().map(|line| line.trim().to_string()).collect::<Vec<_>>();
        assert_eq!(lines(&file), lines(include_str!("serve/terrace.toml")));
        assert_eq!(after, "");
    }

    #[test]
    fn a_folder_gets_all_pages() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let args = ManArgs { page: None, folder: Some(folder.path().into()) };
        main(&args, crate::Arguments::command(), |_| {}).expect("it can be written to");
        for page in ["terrace.1", "terrace-serve.1", "terrace-ctl.1", "terrace-ctl-stats.1"] {
            assert!(folder.path().join(page).is_file(), "{page} is missing");
        }
        let serve = std::fs::read_to_string(folder.path().join("terrace-serve.1")).expect("it is there");
        assert_eq!(serve.trim_end(), page(Some("serve")).expect("there is one"));
    }
}

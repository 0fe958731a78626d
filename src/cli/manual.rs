//! Completions of shells, and manual pages.

use super::{arguments::Arguments, failure::Failure};
use clap::CommandFactory as _;
use std::{
    io::{self, Write as _},
    path::Path,
};

pub(super) fn completions(shell: clap_complete::Shell) -> Result<(), Failure> {
    let mut script = Vec::new();
    let mut command = Arguments::command();
    clap_complete::generate(shell, &mut command, "eventstore", &mut script);
    io::stdout().write_all(&script)?;
    Ok(())
}

pub(super) fn man(directory: Option<&Path>) -> Result<(), Failure> {
    let command = Arguments::command();
    match directory {
        None => {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            io::stdout().write_all(&page)?;
        }
        Some(directory) => {
            std::fs::create_dir_all(directory)?;
            clap_mangen::generate_to(command, directory)?;
        }
    }
    Ok(())
}

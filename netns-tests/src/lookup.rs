//! Names looked up as programs do: by the `getaddrinfo` of a C library.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::Container;
use crate::lab::FOLDER;
use crate::output::Output;

const SOURCE: &str = include_str!("lookup.c");

/// A small program that asks one C library.
#[derive(Debug)]
pub struct Lookup {
    name: &'static str,
    program: PathBuf,
}

impl Lookup {
    /// The two C libraries that containers have: glibc, and musl in a static program.
    ///
    /// # Errors
    /// If a program cannot be built.
    pub fn both() -> Result<[Self; 2]> {
        Ok([Self::glibc()?, Self::built("musl", "musl-gcc", &["-static"])?])
    }

    /// glibc alone.
    ///
    /// # Errors
    /// If the program cannot be built.
    pub fn glibc() -> Result<Self> {
        Self::built("glibc", "gcc", &[])
    }

    fn built(name: &'static str, compiler: &str, options: &[&str]) -> Result<Self> {
        let folder = PathBuf::from(FOLDER);
        let (source, program) = (folder.join("lookup.c"), folder.join(format!("lookup-{name}")));
        std::fs::write(&source, SOURCE)?;
        Output::of(Command::new(compiler).args(options).arg("-o").args([&program, &source]), "")?.ok()?;
        Ok(Self { name, program })
    }

    /// The library's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// The addresses of a name as the container sees them, in their order; none if there is no such name or no address.
    ///
    /// # Errors
    /// If the program fails in another way.
    pub fn ask(&self, container: &Container, name: &str) -> Result<Vec<String>> {
        let output = container.exec(&[self.program.to_str().context("a path of ours is text")?, name])?;
        match output.code {
            0 => Ok(output.stdout.lines().map(str::to_owned).collect()),
            1 if output.stdout.is_empty() => Ok(Vec::new()),
            _ => bail!("{output}"),
        }
    }
}

//! A token comes from standard input or a file, never from the command line, where every user of the machine could read it.

use std::io::Read;

use peerd::control::{ExitStatus, Failure};

/// More than any token has.
const TOKEN_LEN_MAX: u64 = 8 * 1024;

/// The token that `from` names: `-` is standard input, `@FILE` a file.
pub fn read_token(from: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let read = match from.strip_prefix('@') {
        Some(path) => std::fs::File::open(path).and_then(|file| file.take(TOKEN_LEN_MAX).read_to_string(&mut text)),
        None if from == "-" => std::io::stdin().take(TOKEN_LEN_MAX).read_to_string(&mut text),
        None => {
            return Err(Failure::new(
                ExitStatus::Usage,
                "cannot take a token from the command line",
                "every user of this machine could read it there",
                "peerctl join -   and give the token on standard input, or peerctl join @FILE",
            ));
        }
    };
    let source = if from == "-" { "standard input" } else { from };
    read.map_err(|error| {
        let hint = "peerctl invite on a signer prints a token";
        Failure::new(ExitStatus::InvalidFile, format_args!("cannot read a token from {source}"), error, hint)
    })?;
    let token = text.trim();
    if token.is_empty() {
        let hint = "peerctl invite on a signer prints a token";
        return Err(Failure::new(ExitStatus::InvalidFile, format_args!("no token in {source}"), "it is empty", hint));
    }
    Ok(token.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_on_the_command_line_is_refused_and_not_repeated() {
        let failure = read_token("peerd1-secret").expect_err("refused");
        assert_eq!(failure.status, ExitStatus::Usage);
        assert!(!failure.to_string().contains("secret"));
    }

    #[test]
    fn a_file_that_is_not_there_is_an_invalid_file() {
        assert_eq!(read_token("@/nonexistent/token").expect_err("refused").status, ExitStatus::InvalidFile);
    }
}

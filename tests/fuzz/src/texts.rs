//! Texts: a token on standard input, a line on the control socket, a service file.

use peerd::control::{Frame, Request, decode_line, encode_line};
use peerd::gossip::Token;
use peerd::model::AppDef;
use peerd::services::file::{DEF_LEN_MAX, Options, parse};
use peerd::services::{diff, disputes};

/// A token's text. What reads has one text of its own, which reads as the same token.
pub fn token(bytes: &[u8]) -> bool {
    let Some(token) = std::str::from_utf8(bytes).ok().and_then(|text| text.parse::<Token>().ok()) else { return false };
    let again = token.to_text().parse::<Token>();
    assert!(again == Ok(token), "a token's text reads as another token");
    true
}

/// A line of either side of the control protocol. What reads is written as one line.
pub fn control(bytes: &[u8]) -> bool {
    let request = decode_line::<Request>(bytes).ok();
    if let Some(request) = &request {
        let line = encode_line(request);
        assert_eq!(line.iter().filter(|byte| **byte == b'\n').count(), 1, "a request is one line");
        assert_eq!(decode_line::<Request>(&line).as_ref().ok(), Some(request));
    }
    request.is_some() | decode_line::<Frame>(bytes).is_ok()
}

/// A service file, of an application that it names or of another. What reads is a definition that can travel.
pub fn service_file(bytes: &[u8]) -> bool {
    let beside = Options { app: "ap-1".parse().ok() };
    let Ok(parsed) = parse(bytes, &Options::default()).or_else(|_| parse(bytes, &beside)) else { return false };
    let def = parsed.def;
    assert!(def.is_sound(), "{def:?}");
    assert!(disputes(&def, []).is_empty(), "its services take each other's ports");
    assert!(diff(Some(&def), Some(&def)).is_empty() && !diff(None, Some(&def)).is_empty());
    let record = minicbor::to_vec(&def).expect("a Vec takes every byte");
    assert!(record.len() <= DEF_LEN_MAX);
    assert_eq!(minicbor::decode::<AppDef>(&record).ok(), Some(def));
    true
}

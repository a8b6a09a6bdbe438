//! The certificates that nginx serves, as files: given by the operator, or made by a certificate authority for development.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use time::{Duration, OffsetDateTime};
use zeroize::Zeroizing;

use crate::ingress::Certificate;
use crate::model::ServerPattern;

/// Where they are, below the ingress folder.
pub const DIR: &str = "certificates";
const AUTHORITY: &str = "development-ca";
const AUTHORITY_DAYS: i64 = 3650;
/// What browsers take at most.
const ISSUED_DAYS: i64 = 397;
const NAMES_MAX: usize = 100;
/// What every file system can tell apart.
const STEP: std::time::Duration = std::time::Duration::from_secs(2);

/// Why a certificate was not taken or made. Nothing has changed.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error("the certificate is not in PEM form")]
    CertificatePem,
    #[error("the key is no private key in PEM form")]
    KeyPem,
    #[error("the key is not the certificate's")]
    Mismatch,
    #[error("the certificate cannot be read")]
    Unreadable,
    #[error("the certificate names no server")]
    Nameless,
    #[error("a certificate is for at most {NAMES_MAX} names")]
    TooMany,
    #[error("there is no certificate for {0}")]
    Missing(String),
    #[error("the certificate cannot be made")]
    Make(#[from] rcgen::Error),
    #[error("the certificate's files cannot be written")]
    Io(#[from] io::Error),
}

/// A folder of certificates.
#[derive(Debug, Clone)]
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// The certificates in a folder that is there.
    pub fn new(ingress: &Path) -> Self {
        Self { dir: ingress.join(DIR) }
    }

    /// All that are there, the newest first. What cannot be read any more is left out, and told.
    pub fn list(&self) -> Vec<Certificate> {
        self.dated().into_iter().map(|(_, certificate)| certificate).collect()
    }

    /// The same, each with when it was taken.
    fn dated(&self) -> Vec<(SystemTime, Certificate)> {
        let Ok(entries) = fs::read_dir(&self.dir) else { return Vec::new() };
        let mut all = Vec::new();
        for path in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            let Some(file) = path.file_stem().and_then(|stem| stem.to_str()) else { continue };
            if path.extension().is_none_or(|ending| ending != "crt") || file == AUTHORITY {
                continue;
            }
            let pair = fs::read(&path).ok().zip(fs::read(path.with_extension("key")).ok().map(Zeroizing::new));
            match pair.ok_or(CertificateError::Unreadable).and_then(|(crt, key)| names_of(&crt, &key)) {
                Ok(names) => {
                    let taken = fs::metadata(&path).and_then(|it| it.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
                    all.push((taken, Certificate { file: file.to_owned(), names }));
                }
                Err(error) => tracing::warn!(path = %path.display(), %error, "a certificate is left out"),
            }
        }
        all.sort_by(|(taken, one), (other_taken, other)| other_taken.cmp(taken).then_with(|| one.cmp(other)));
        all
    }

    /// Takes a chain and its key, both as PEM. One that has no other names is replaced.
    pub fn add(&self, chain: &[u8], key: &[u8]) -> Result<Certificate, CertificateError> {
        let names = names_of(chain, key)?;
        if names.is_empty() {
            return Err(CertificateError::Nameless);
        }
        if names.len() > NAMES_MAX {
            return Err(CertificateError::TooMany);
        }
        // Another certificate is another file, so that nginx is told of it.
        let file = blake3::hash(chain).to_hex()[..24].to_owned();
        write(&self.dir.join(format!("{file}.key")), key)?;
        let path = self.dir.join(format!("{file}.crt"));
        write(&path, chain)?;
        let others: Vec<_> = self.dated().into_iter().filter(|(_, other)| other.file != file).collect();
        if let Some((newest, _)) = others.first()
            && fs::metadata(&path)?.modified()? <= *newest
        {
            // Within one tick of the file system's clock, or the host's was set back: it is the newest all the same.
            fs::File::options().write(true).open(&path)?.set_modified(*newest + STEP)?;
        }
        for (_, other) in others.iter().filter(|(_, other)| other.names.iter().all(|name| names.contains(name))) {
            self.remove_files(other)?;
        }
        Ok(Certificate { file, names })
    }

    /// Removes the newest certificate that is for this name.
    pub fn remove(&self, name: &ServerPattern) -> Result<(), CertificateError> {
        let all = self.list();
        let found = all.iter().find(|certificate| certificate.names.contains(name));
        let found = found.ok_or_else(|| CertificateError::Missing(name.to_string()))?;
        Ok(self.remove_files(found)?)
    }

    fn remove_files(&self, certificate: &Certificate) -> io::Result<()> {
        ["crt", "key"]
            .iter()
            .try_for_each(|ending| fs::remove_file(self.dir.join(format!("{}.{ending}", certificate.file))))
    }

    /// The development authority's own certificate as PEM; made if there is none.
    pub fn authority(&self, now_unix_s: u64) -> Result<String, CertificateError> {
        let path = self.dir.join(format!("{AUTHORITY}.crt"));
        match fs::read_to_string(&path) {
            Ok(pem) => Ok(pem),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = KeyPair::generate()?;
                let pem = authority_params(now_unix_s)?.self_signed(&key)?.pem();
                write(&path.with_extension("key"), Zeroizing::new(key.serialize_pem()).as_bytes())?;
                write(&path, pem.as_bytes())?;
                Ok(pem)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Makes a certificate for these names, signed by the development authority.
    pub fn issue(&self, names: &[ServerPattern], now_unix_s: u64) -> Result<Certificate, CertificateError> {
        let authority = self.authority(now_unix_s)?;
        let key = Zeroizing::new(fs::read_to_string(self.dir.join(format!("{AUTHORITY}.key")))?);
        // Whoever checks it looks at the subject's name and the key, and both are the same each time.
        let issuer = Issuer::new(authority_params(now_unix_s)?, KeyPair::from_pem(&key)?);
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names.clone())?;
        if let Some(first) = names.first() {
            params.distinguished_name.push(DnType::CommonName, first.as_str());
        }
        set_dates(&mut params, now_unix_s, ISSUED_DAYS);
        let own = KeyPair::generate()?;
        let chain = params.signed_by(&own, &issuer)?.pem() + &authority;
        self.add(chain.as_bytes(), Zeroizing::new(own.serialize_pem()).as_bytes())
    }
}

fn authority_params(now_unix_s: u64) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.distinguished_name.push(DnType::CommonName, "peerd development CA");
    set_dates(&mut params, now_unix_s, AUTHORITY_DAYS);
    Ok(params)
}

fn set_dates(params: &mut CertificateParams, now_unix_s: u64, days: i64) {
    let now = i64::try_from(now_unix_s).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
    let Some(now) = now else { return };
    // Clocks differ.
    params.not_before = now - Duration::DAY;
    params.not_after = now + Duration::days(days);
}

/// The names of a chain's first certificate, if the key is its own.
fn names_of(chain: &[u8], key: &[u8]) -> Result<Vec<ServerPattern>, CertificateError> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(chain)
        .collect::<Result<_, _>>()
        .map_err(|_| CertificateError::CertificatePem)?;
    let first = chain.first().ok_or(CertificateError::CertificatePem)?.clone();
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::KeyPem)?;
    let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| CertificateError::KeyPem)?;
    let parsed = webpki::EndEntityCert::try_from(&first).map_err(|_| CertificateError::Unreadable)?;
    let names = parsed.valid_dns_names().filter_map(|name| name.parse().ok()).collect();
    CertifiedKey::new(chain, key).keys_match().map_err(|_| CertificateError::Mismatch)?;
    Ok(names)
}

/// Writes a file for its owner alone, whole or not at all.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn patterns(names: &[&str]) -> Vec<ServerPattern> {
        names.iter().map(|name| name.parse().expect("a pattern")).collect()
    }

    fn folder() -> (tempfile::TempDir, Certificates) {
        let dir = tempfile::tempdir().expect("a folder");
        fs::create_dir(dir.path().join(DIR)).expect("a folder");
        let certificates = Certificates::new(dir.path());
        (dir, certificates)
    }

    #[test]
    fn the_development_authority_stays_the_same_and_its_certificates_replace_each_other_by_name() {
        let (_dir, certificates) = folder();
        let authority = certificates.authority(NOW).expect("made");
        let one = certificates.issue(&patterns(&["a.test", "*.b.test"]), NOW).expect("made");
        assert_eq!(one.names, patterns(&["a.test", "*.b.test"]));
        let again = certificates.issue(&patterns(&["a.test", "*.b.test"]), NOW + 60).expect("made");
        assert_ne!(again.file, one.file, "nginx would not see the difference");
        certificates.issue(&patterns(&["c.test"]), NOW).expect("made");
        assert_eq!(certificates.authority(NOW + 99).expect("read"), authority);
        assert_eq!(certificates.list().len(), 2);
        certificates.remove(&patterns(&["a.test"])[0]).expect("removed");
        assert_eq!(certificates.list().len(), 1);
        assert!(matches!(certificates.remove(&patterns(&["a.test"])[0]), Err(CertificateError::Missing(_))));
    }

    #[test]
    fn the_one_that_was_taken_last_is_served_whatever_else_it_is_for() {
        let (_dir, certificates) = folder();
        let a = &patterns(&["a.test"])[0];
        let best = || Certificate::best(&certificates.list(), a).map(|best| best.file.clone());
        // Each has another key, so another place in the order of the files.
        for round in 0..8 {
            for names in [&["a.test"][..], &["a.test", "b.test"], &["b.test", "a.test"], &["a.test", "c.test"]] {
                let made = certificates.issue(&patterns(names), NOW + round).expect("made");
                assert_eq!(best(), Some(made.file), "{names:?}");
            }
            let names: Vec<_> = certificates.list().into_iter().map(|one| one.names).collect();
            assert_eq!(names, [patterns(&["a.test", "c.test"]), patterns(&["b.test", "a.test"])]);
        }
        // What the clock says of a file decides nothing when it was set back.
        let ahead = certificates.issue(&patterns(&["a.test", "d.test"]), NOW).expect("made");
        let path = certificates.dir.join(format!("{}.crt", ahead.file));
        let file = fs::File::options().write(true).open(path).expect("there");
        file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(4_000_000_000)).expect("set");
        let last = certificates.issue(&patterns(&["a.test", "e.test"]), NOW).expect("made");
        assert_eq!(best(), Some(last.file));
        certificates.remove(a).expect("removed");
        assert_eq!(best(), Some(ahead.file), "what was served is gone");
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, certificates) = folder();
        certificates.issue(&patterns(&["a.test"]), NOW).expect("made");
        for entry in fs::read_dir(dir.path().join(DIR)).expect("there") {
            assert_eq!(entry.expect("there").metadata().expect("there").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn what_is_no_certificate_or_has_another_key_is_refused() {
        let (_dir, certificates) = folder();
        let made = |name: &str| {
            let key = KeyPair::generate().expect("a key");
            let params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
            (params.self_signed(&key).expect("made").pem(), key.serialize_pem())
        };
        let ((one, one_key), (_, other_key)) = (made("a.test"), made("b.test"));
        assert!(matches!(certificates.add(one.as_bytes(), other_key.as_bytes()), Err(CertificateError::Mismatch)));
        assert!(matches!(certificates.add(b"nonsense", one_key.as_bytes()), Err(CertificateError::CertificatePem)));
        assert!(matches!(certificates.add(one.as_bytes(), one.as_bytes()), Err(CertificateError::KeyPem)));
        let cut = &one.as_bytes()[..one.len() / 2];
        assert!(certificates.add(cut, one_key.as_bytes()).is_err());
        assert_eq!(certificates.list(), []);
        certificates.add(one.as_bytes(), one_key.as_bytes()).expect("taken");
        assert_eq!(certificates.list().len(), 1);
    }
}

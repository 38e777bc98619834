// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Certificates: an authority, stores and clients that it signs, and what a client's says.
//!
//! A client's certificate names each namespace that it may use in a URI of its subject alternative
//! names: `virtio-tmem:namespace/NAME`. A store's names its host names and addresses there, as usual.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use thiserror::Error;
use time::{Duration, OffsetDateTime};
use tmem_remote_protocol::Namespace;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::args::{CaArgs, CertArgs, CertCommand, ClientCertArgs, ServerCertArgs};

/// What a URI that names a namespace begins with.
const NAMESPACE_URI: &str = "virtio-tmem:namespace/";
/// Clocks of hosts may differ by this much.
const CLOCKS_DIFFER: Duration = Duration::minutes(10);

/// Why there is no certificate.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CertError {
    /// A file cannot be written.
    #[error("Cannot write {}: check its folder and its rights, and give --force if it may be replaced", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file of the authority cannot be read.
    #[error("Cannot read {}: make an authority first, by remote-store cert ca --out DIR", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot be made.
    #[error("Cannot make the certificate of {name}")]
    Make {
        /// Whose it is.
        name: String,
        /// Why.
        source: rcgen::Error,
    },
    /// A name that no namespace can have.
    #[error("Cannot make a certificate for namespace {name}")]
    Namespace {
        /// The name.
        name: String,
        /// Why.
        source: tmem_remote_protocol::ProtocolError,
    },
    /// The days are more than a calendar has.
    #[error(
        "Cannot make a certificate that is good from {days_ago} days ago for {days} days: choose fewer"
    )]
    Days {
        /// Days ago.
        days_ago: u32,
        /// Days.
        days: u32,
    },
}

/// Does what `remote-store cert` was asked for.
///
/// # Errors
/// [`CertError`] if it cannot be done.
pub fn run(command: &CertCommand) -> Result<(), CertError> {
    match command {
        CertCommand::Ca(args) => ca(args),
        CertCommand::Server(args) => server(args),
        CertCommand::Client(args) => client(args),
    }
}

/// A name, or why it can be none.
fn make<T>(name: &str, result: Result<T, rcgen::Error>) -> Result<T, CertError> {
    result.map_err(|source| CertError::Make {
        name: name.into(),
        source,
    })
}

/// What all certificates have.
fn params(name: &str, args: &CertArgs) -> Result<CertificateParams, CertError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    let days = CertError::Days {
        days_ago: args.days_ago,
        days: args.days,
    };
    let from = OffsetDateTime::now_utc()
        .checked_sub(Duration::days(i64::from(args.days_ago)) + CLOCKS_DIFFER);
    let until = from
        .and_then(|from| from.checked_add(Duration::days(i64::from(args.days)) + CLOCKS_DIFFER));
    let (Some(from), Some(until)) = (from, until) else {
        return Err(days);
    };
    params.not_before = from;
    params.not_after = until;
    Ok(params)
}

fn ca(args: &CaArgs) -> Result<(), CertError> {
    let mut params = params(&args.name, &args.cert)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let key = make(&args.name, KeyPair::generate())?;
    let certificate = make(&args.name, params.self_signed(&key))?;
    write(&args.cert, "ca", &certificate.pem(), &key)
}

fn server(args: &ServerCertArgs) -> Result<(), CertError> {
    let mut params = params(&args.name, &args.cert)?;
    for san in &args.sans {
        params.subject_alt_names.push(match san.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(make(&args.name, Ia5String::try_from(san.as_str()))?),
        });
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    signed(params, &args.cert, &args.ca, &args.name)
}

fn client(args: &ClientCertArgs) -> Result<(), CertError> {
    let first = args.namespaces.first().cloned().unwrap_or_default();
    let name = args.name.clone().unwrap_or(first);
    let mut params = params(&name, &args.cert)?;
    for namespace in &args.namespaces {
        let checked = Namespace::new(namespace).map_err(|source| CertError::Namespace {
            name: namespace.clone(),
            source,
        })?;
        let uri = format!("{NAMESPACE_URI}{checked}");
        let uri = make(&name, Ia5String::try_from(uri.as_str()))?;
        params.subject_alt_names.push(SanType::URI(uri));
    }
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    signed(params, &args.cert, &args.ca, &name)
}

/// Makes a key and the certificate for it, signed by the authority in a folder.
fn signed(
    mut params: CertificateParams,
    args: &CertArgs,
    ca: &Path,
    name: &str,
) -> Result<(), CertError> {
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let ca_key = make(name, KeyPair::from_pem(&read(&ca.join("ca.key"))?))?;
    let ca_pem = read(&ca.join("ca.pem"))?;
    let issuer = make(name, Issuer::from_ca_cert_pem(&ca_pem, ca_key))?;
    let key = make(name, KeyPair::generate())?;
    let certificate = make(name, params.signed_by(&key, &issuer))?;
    write(args, name, &certificate.pem(), &key)
}

fn read(path: &Path) -> Result<String, CertError> {
    fs::read_to_string(path).map_err(|source| CertError::Read {
        path: path.into(),
        source,
    })
}

/// Writes a certificate, and its key for the owner's eyes alone.
fn write(args: &CertArgs, name: &str, certificate: &str, key: &KeyPair) -> Result<(), CertError> {
    let failed = |path: &Path, source| CertError::Write {
        path: path.into(),
        source,
    };
    fs::create_dir_all(&args.out).map_err(|source| failed(&args.out, source))?;
    let key = key.serialize_pem();
    for (extension, text, mode) in [("key", key.as_str(), 0o600), ("pem", certificate, 0o644)] {
        let path = args.out.join(format!("{name}.{extension}"));
        let mut options = OpenOptions::new();
        options.write(true).mode(mode);
        if args.force {
            options.create(true).truncate(true);
        } else {
            options.create_new(true);
        }
        let written = options
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|source| failed(&path, source))?;
        println!("{}", path.display());
    }
    Ok(())
}

/// The namespaces that a client's certificate names.
pub(crate) fn namespaces(certificate: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else {
        return Vec::new();
    };
    let Ok(Some(names)) = certificate.subject_alternative_name() else {
        return Vec::new();
    };
    let names = names.value.general_names.iter();
    let uris = names.filter_map(|name| match name {
        GeneralName::URI(uri) => uri.strip_prefix(NAMESPACE_URI),
        _ => None,
    });
    uris.map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use rustls_pki_types::CertificateDer;
    use rustls_pki_types::pem::PemObject;

    use super::*;

    fn args(out: &Path) -> CertArgs {
        CertArgs {
            out: out.into(),
            days: 1,
            days_ago: 0,
            force: false,
        }
    }

    #[test]
    fn client_certificate_names_its_namespaces_and_no_others() {
        let dir = tempfile::tempdir().unwrap();
        let ca = CaArgs {
            cert: args(dir.path()),
            name: "test".into(),
        };
        run(&CertCommand::Ca(ca.clone())).unwrap();
        let client = |names: &[&str]| {
            run(&CertCommand::Client(ClientCertArgs {
                cert: args(dir.path()),
                ca: dir.path().into(),
                namespaces: names.iter().map(|&name| name.to_owned()).collect(),
                name: Some("c".into()),
            }))
        };
        assert!(matches!(client(&["a/b"]), Err(CertError::Namespace { .. })));
        client(&["one", "two"]).unwrap();
        let der = CertificateDer::from_pem_file(dir.path().join("c.pem")).unwrap();
        assert_eq!(namespaces(&der), ["one", "two"]);
        // An authority that is there is not written over.
        assert!(matches!(
            run(&CertCommand::Ca(ca)),
            Err(CertError::Write { .. })
        ));
        let der = CertificateDer::from_pem_file(dir.path().join("ca.pem")).unwrap();
        assert!(namespaces(&der).is_empty());
        assert!(namespaces(b"no certificate").is_empty());
    }
}

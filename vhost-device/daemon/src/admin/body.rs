// SPDX-License-Identifier: Apache-2.0 OR BSD-3-Clause
//! Reads what callers send, and words what is refused; for all paths that change something.

use axum::body::Bytes;
use axum::extract::Path;
use axum::extract::rejection::{BytesRejection, PathRejection};
use axum::http::StatusCode;
use serde::de::DeserializeOwned;
use tmem_admin_api::{ErrorCode, TierName};

use super::router::{Failure, Source};
use crate::status::{TierAdmin, TierError};

/// Why a request that names a guest, a tier or a task is not carried out.
pub(super) type Answer<T> = Result<T, Failure>;

/// Reads a body of JSON, whatever its content type says, so that `curl -d` works as it is. No body is
/// the same as `{}`. `hint` says what may be sent.
pub(super) fn read<T: DeserializeOwned>(
    body: Result<Bytes, BytesRejection>,
    hint: &'static str,
) -> Answer<T> {
    let body = body.map_err(|error| match error.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Failure::too_large(),
        _ => Failure::bad_request(error.body_text(), hint),
    })?;
    let body: &[u8] = if body.is_empty() { b"{}" } else { &body };
    serde_json::from_slice(body)
        .map_err(|error| Failure::bad_request(format!("cannot read the body: {error}"), hint))
}

/// The name in the path, of a guest that there is.
pub(super) fn guest(source: &Source, name: Result<Path<String>, PathRejection>) -> Answer<String> {
    let Path(name) = name.map_err(|error| Failure::bad_query(error.body_text()))?;
    if source.guest(&name).is_none() {
        return Err(Failure::no_such_guest(&name));
    }
    Ok(name)
}

/// The name in the path, of a tier that there is.
pub(super) fn tier(
    admin: &dyn TierAdmin,
    name: Result<Path<String>, PathRejection>,
) -> Answer<TierName> {
    let Path(name) = name.map_err(|error| Failure::bad_query(error.body_text()))?;
    let found = TierName::from_word(&name).filter(|&tier| admin.tier(tier).is_some());
    found.ok_or_else(|| TierError::NoSuchTier { name }.into())
}

/// Refuses a tier that there is not.
pub(super) fn check_tier(admin: &dyn TierAdmin, tier: TierName) -> Answer<()> {
    let name = || tier.as_str().to_owned();
    let found = admin.tier(tier).map(|_| ());
    found.ok_or_else(|| TierError::NoSuchTier { name: name() }.into())
}

/// What changes tiers, if the daemon has it.
pub(super) fn admin(source: &Source) -> Answer<&dyn TierAdmin> {
    source.tier_admin().ok_or_else(|| {
        let what = "this daemon has no tiers beyond its frames".into();
        TierError::NotAvailable { what }.into()
    })
}

/// Logs what an administrator did, or why it was not done.
pub(super) fn told<T>(what: &str, subject: &str, result: Result<T, TierError>) -> Answer<T> {
    match &result {
        Ok(_) => tracing::info!(subject, "{what}, as an administrator asked"),
        Err(error) => tracing::warn!(subject, %error, "not done: {what}"),
    }
    result.map_err(Into::into)
}

impl Failure {
    pub(super) fn bad_request(message: String, hint: &'static str) -> Self {
        Self(
            StatusCode::BAD_REQUEST,
            ErrorCode::BadRequest,
            message,
            hint,
        )
    }
}

impl From<TierError> for Failure {
    fn from(error: TierError) -> Self {
        let (status, code, hint) = match &error {
            TierError::NoSuchTier { .. } => (
                StatusCode::NOT_FOUND,
                ErrorCode::NoSuchTier,
                "`tmemctl tier list` shows the tiers; the daemon's configuration makes them",
            ),
            TierError::NoSuchStore { .. } => (
                StatusCode::NOT_FOUND,
                ErrorCode::NoSuchStore,
                "`tmemctl store list` shows the stores",
            ),
            TierError::NoSuchGuest { .. } => (
                StatusCode::NOT_FOUND,
                ErrorCode::NoSuchGuest,
                "`tmemctl guest list` shows the guests",
            ),
            TierError::NoSuchPolicy { .. } => (
                StatusCode::NOT_FOUND,
                ErrorCode::NoSuchPolicy,
                "`tmemctl policy list` shows the policies",
            ),
            TierError::UnderWay { .. } => (
                StatusCode::CONFLICT,
                ErrorCode::TaskUnderWay,
                "wait until it has ended; `tmemctl tier show`, `guest show` and `store show` tell how \
                 far it is, and `tmemctl tier undrain` calls a drain off",
            ),
            TierError::NotAvailable { .. } => (
                StatusCode::CONFLICT,
                ErrorCode::NotAvailable,
                "set it up in the daemon's configuration and restart the daemon",
            ),
            TierError::BadText { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                ErrorCode::BadText,
                "`tmemctl link set --help` and `tmemctl link fault --help` show what may be written",
            ),
            TierError::Refused { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                ErrorCode::Refused,
                "nothing was changed; mend what the message says and ask again",
            ),
            TierError::Failed { .. } => (
                StatusCode::INTERNAL_SERVER_ERROR,
                ErrorCode::Failed,
                "the daemon's log may say more",
            ),
        };
        let source = std::error::Error::source(&error).map(|source| format!(": {source}"));
        let message = format!("{error}{}", source.unwrap_or_default());
        Self(status, code, message, hint)
    }
}

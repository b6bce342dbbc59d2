//! Refusals, and the one place that turns them into responses.

use crate::participating::storage::Fault;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// Why a request is not answered with what it asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// A bare status with a line of text for whoever reads it with their own eyes.
    Plain(StatusCode, &'static str),
    /// 405 with the methods that are allowed.
    Method(&'static str),
    /// 415 with the media type that is taken.
    MediaType(&'static str),
    /// 408: the body did not come in time.
    Slow,
    /// 409 with an `application/xcap-error+xml` document (RFC 4825 §11).
    Conflict(Box<str>),
    /// 503: the store refused or does not answer.
    Store(Fault),
}

impl Refusal {
    /// 404.
    pub const fn not_found(text: &'static str) -> Self {
        Self::Plain(StatusCode::NOT_FOUND, text)
    }

    /// 400.
    pub const fn bad_request(text: &'static str) -> Self {
        Self::Plain(StatusCode::BAD_REQUEST, text)
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Store(fault)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Plain(status, text) => plain(status, text),
            Self::Method(allow) => {
                with(plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"), header::ALLOW, allow)
            }
            Self::MediaType(accept) => {
                with(plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong media type\n"), header::ACCEPT, accept)
            }
            Self::Slow => {
                with(plain(StatusCode::REQUEST_TIMEOUT, "the body took too long\n"), header::CONNECTION, "close")
            }
            Self::Conflict(report) => {
                let media_type = [(header::CONTENT_TYPE, "application/xcap-error+xml")];
                (StatusCode::CONFLICT, media_type, String::from(report)).into_response()
            }
            Self::Store(fault) => {
                with(plain(StatusCode::SERVICE_UNAVAILABLE, fault_text(fault)), header::RETRY_AFTER, "1")
            }
        }
    }
}

/// A bare status with a line of text.
pub fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

fn with(mut response: Response, name: header::HeaderName, value: &'static str) -> Response {
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// Why the store refused, in words.
pub const fn fault_text(fault: Fault) -> &'static str {
    match fault {
        Fault::QuotaExceeded => "the user's quota is used up\n",
        Fault::Busy => "the store has more work than the disk takes\n",
        Fault::DiskFull => "the disk is full\n",
        Fault::Broken => "the store does not answer or failed\n",
    }
}

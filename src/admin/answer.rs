//! Responses that several paths give.

use crate::participating::storage::Fault;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

/// A bare status with a line of text for whoever reads it with their own eyes.
pub fn plain(status: StatusCode, text: &'static str) -> Response {
    (status, [(header::CONTENT_TYPE, "text/plain; charset=utf-8")], text).into_response()
}

/// 503: the store did not commit. Nothing was changed.
pub fn unavailable(fault: Fault) -> Response {
    let mut response = plain(StatusCode::SERVICE_UNAVAILABLE, fault_text(fault));
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
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

/// 405 with the methods that are allowed.
pub fn not_allowed(allow: &'static str) -> Response {
    let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n");
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allow));
    response
}

//! Status codes of responses and reports.

/// Success.
pub const OK: u16 = 200;
/// The request is malformed.
pub const BAD_REQUEST: u16 = 400;
/// The request is not allowed.
pub const FORBIDDEN: u16 = 403;
/// No answer came downstream in time.
pub const TIMEOUT: u16 = 408;
/// The receiver wants no more of this message.
pub const STOP_SENDING: u16 = 413;
/// The receiver cannot take this media type.
pub const UNSUPPORTED_MEDIA_TYPE: u16 = 415;
/// A parameter is out of bounds.
pub const OUT_OF_BOUNDS: u16 = 423;
/// There is no such session.
pub const NO_SESSION: u16 = 481;
/// The method is not known.
pub const UNKNOWN_METHOD: u16 = 501;
/// The session is bound to another connection.
pub const WRONG_CONNECTION: u16 = 506;

/// The comment that stands behind a code; empty for codes without a registered meaning.
///
/// RFC 4975 §10.
pub const fn comment(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        408 => "Timeout",
        413 => "Stop Sending",
        415 => "Unsupported Media Type",
        423 => "Parameter Out of Bounds",
        424 => "Nickname Rejected",
        425 => "Nickname Reserved",
        428 => "Private Messages Not Supported",
        481 => "No Such Session",
        501 => "Unknown Method",
        506 => "Session Already Bound",
        _ => "",
    }
}

/// Whether a code means success.
///
/// RFC 4975 §7.2.
pub const fn is_success(status: u16) -> bool {
    status / 100 == 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_we_name_has_a_comment() {
        let named = [
            OK,
            BAD_REQUEST,
            FORBIDDEN,
            TIMEOUT,
            STOP_SENDING,
            UNSUPPORTED_MEDIA_TYPE,
            OUT_OF_BOUNDS,
            NO_SESSION,
            UNKNOWN_METHOD,
            WRONG_CONNECTION,
        ];
        assert!(named.iter().all(|status| !comment(*status).is_empty()));
        assert_eq!(named.iter().filter(|status| is_success(**status)).count(), 1);
        assert_eq!(comment(299), "");
    }
}

//! What can be wrong with a session description. The peer's fault, every one.

/// Why a description cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SdpFault {
    /// Over a bound of `base::limits`.
    TooLarge,
    /// Not a session description (RFC 8866 §5).
    NotSdp,
    /// No open `m=message … TCP/MSRP` line (RFC 4975 §8.1).
    NoMessageMedia,
    /// MSRP over TLS alone.
    TlsOnly,
    /// No path, or none that can be read (RFC 4975 §8.2).
    NoPath,
    /// `message/cpim` is not among the accepted types (SPEC LM-4x).
    NoCpim,
    /// The direction leaves nothing to carry from the originator to the recipient (SPEC LM-A2d).
    Direction,
    /// `a=setup:holdconn`: nobody is to connect (RFC 4145 §4).
    Setup,
}

impl SdpFault {
    /// Status code and reason phrase that answer an offer.
    ///
    /// RFC 3261 §21.4.26, §21.4.11.
    pub const fn status(self) -> (u16, &'static str) {
        match self {
            Self::TooLarge => (413, "Request Entity Too Large"),
            Self::NotSdp => (400, "Bad Session Description"),
            Self::NoMessageMedia | Self::TlsOnly | Self::NoPath | Self::NoCpim | Self::Direction | Self::Setup => {
                (488, "Not Acceptable Here")
            }
        }
    }

    /// A word for metrics and logs.
    ///
    /// RFC 8866 §5.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::NotSdp => "not_sdp",
            Self::NoMessageMedia => "no_message_media",
            Self::TlsOnly => "tls_only",
            Self::NoPath => "no_path",
            Self::NoCpim => "no_cpim",
            Self::Direction => "direction",
            Self::Setup => "setup",
        }
    }
}

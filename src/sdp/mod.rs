//! SDP: session descriptions with one MSRP media line, read and written.
//!
//! Owns the grammar, the MSRP attributes, offer and answer. Refuses to know SIP, sockets and who the parties are.
//!
//! Specifications: RFC 8866, RFC 3264, RFC 4975 §8, RFC 4145 and RFC 6135 (setup), RFC 5547 (files), RFC 6714 (CEMA).

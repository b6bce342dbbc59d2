//! The application usages of the appliance's XCAP root.

use super::fault::Fault;
use super::{access_policy, preferences, resource_lists};

/// One kind of document: an application usage with one well-known document per user.
///
/// RFC 4825 §5.
#[derive(Debug, PartialEq, Eq)]
pub struct Usage {
    /// The application unique id: the first path segment under the XCAP root.
    pub auid: &'static str,
    /// The name of the user's document.
    pub name: &'static str,
    /// Its media type.
    pub mime: &'static str,
}

/// The application unique id of access policies (SPEC §3.1).
pub const ACCESS_RULES: &str = "org.openmobilealliance.access-rules";
/// The application unique id of preferences (SPEC §3.5).
pub const PREFERENCES: &str = "cpm-pf-user-preferences";
/// The application unique id of resource lists (RFC 4826 §3.4.1).
pub const RESOURCE_LISTS: &str = "resource-lists";

/// The usage with this application unique id, if the appliance has it.
///
/// RFC 4825 §5.1.
pub fn usage(auid: &str) -> Option<&'static Usage> {
    USAGES.iter().find(|usage| usage.auid == auid)
}

/// Checks a document as an XCAP server does before it stores it.
///
/// RFC 4825 §8.2.5.
pub fn check(usage: &Usage, body: &[u8]) -> Result<(), Fault> {
    match usage.auid {
        ACCESS_RULES => access_policy::check(body),
        PREFERENCES => preferences::check(body),
        _ => {
            debug_assert_eq!(usage.auid, RESOURCE_LISTS, "every usage has its check");
            resource_lists::check(body)
        }
    }
}

static USAGES: [Usage; 3] = [
    Usage { auid: ACCESS_RULES, name: "access-rules", mime: "application/auth-policy+xml" },
    Usage { auid: PREFERENCES, name: "index", mime: "application/vnd.cpm-pf.user-preferences+xml" },
    Usage { auid: RESOURCE_LISTS, name: "index", mime: "application/resource-lists+xml" },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_usage_checks_documents_of_its_own_kind() {
        let documents = [
            (ACCESS_RULES, r#"<ruleset xmlns="urn:ietf:params:xml:ns:common-policy"/>"#),
            (
                PREFERENCES,
                r#"<cpm-preferences xmlns="urn:cpm-pf:xml:user-preferences:1.0"><profile id="a"/></cpm-preferences>"#,
            ),
            (RESOURCE_LISTS, r#"<resource-lists xmlns="urn:ietf:params:xml:ns:resource-lists"/>"#),
        ];
        for (auid, _) in documents {
            let usage = usage(auid).expect(auid);
            for (kind, document) in documents {
                assert_eq!(check(usage, document.as_bytes()).is_ok(), kind == auid, "{kind} as {auid}");
            }
        }
        assert!(usage("pres-rules").is_none());
    }
}

//! The XCAP root: documents by PUT, GET and DELETE.
//!
//! Only whole documents can be addressed: a node selector (`…/~~/…`) is answered 405 with an empty Allow, the answer
//! of RFC 9110 §15.5.6 for a resource that takes no method. The application usages have one document for each user,
//! with a fixed name; another name is refused with a `<constraint-failure>` (RFC 4825 §8.2.5, §11), a subdirectory with
//! `<no-parent>` (RFC 4825 §8.2.1).

use super::answer::Refusal;
use super::state::AdminState;
use crate::base::id::Aor;
use crate::base::limits::DOCUMENT_LEN_MAX;
use crate::control::precondition::{EntityTags, Preconditions, Unmet};
use crate::control::xcap::{DocumentFault, Put, etag_of};
use crate::documents::{self, Usage};
use crate::participating::storage::Fault;
use crate::sip::uri::canonical_aor;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use percent_encoding::percent_decode_str;
use std::sync::Arc;
use tokio::time::timeout;

/// Every path that no other room has. Below the XCAP root it names a document, elsewhere nothing.
pub async fn handle(State(state): State<Arc<AdminState>>, request: Request) -> Response {
    let answered = match locate(&state.xcap_root, request.uri().path()) {
        Ok(Target::Document { usage, user }) => document(&state, usage, user, request).await,
        Ok(Target::Capabilities) => capabilities(&request),
        Ok(Target::Node) => Err(Refusal::Method("")),
        Ok(Target::Misplaced(misplaced)) => Err(misplaced_answer(misplaced, request.method())),
        Err(status) => Err(Refusal::Plain(status, "no such resource\n")),
    };
    answered.into_response()
}

/// What a path below the XCAP root names.
#[derive(Debug, PartialEq)]
enum Target {
    /// The one document that a usage has for a user.
    Document { usage: &'static Usage, user: Aor },
    /// The server's capabilities (RFC 4825 §12).
    Capabilities,
    /// A part of a document.
    Node,
    /// A place where no document can be.
    Misplaced(Misplaced),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Misplaced {
    /// A directory, the global tree, or a name that the usage does not have.
    Name,
    /// Below a directory that does not exist.
    Parent,
}

/// Reads a path as RFC 4825 §6 writes them; the error is 400 for what is not a path, 404 for what is not here.
fn locate(root: &str, path: &str) -> Result<Target, StatusCode> {
    const NOT_FOUND: StatusCode = StatusCode::NOT_FOUND;
    let below =
        path.strip_prefix(root.trim_end_matches('/')).and_then(|below| below.strip_prefix('/')).ok_or(NOT_FOUND)?;
    let mut segments = Vec::new();
    for segment in below.split('/') {
        if segments.len() == SEGMENT_COUNT_MAX {
            break; // a node selector: what it selects does not matter
        }
        // An escaped slash is part of a name, so escapes are undone after splitting.
        segments.push(percent_decode_str(segment).decode_utf8().map_err(|_| StatusCode::BAD_REQUEST)?);
    }
    let segments: Vec<&str> = segments.iter().map(AsRef::as_ref).collect();
    if segments[0] == "xcap-caps" {
        return if segments[1..] == ["global", "index"] { Ok(Target::Capabilities) } else { Err(NOT_FOUND) };
    }
    let usage = documents::usage(segments[0]).ok_or(NOT_FOUND)?;
    let (user, rest) = match &segments[1..] {
        ["users", user, rest @ ..] if !user.is_empty() => (canonical_aor(user).ok_or(StatusCode::BAD_REQUEST)?, rest),
        ["global", ..] | ["users", ..] => return Ok(Target::Misplaced(Misplaced::Name)),
        _ => return Err(NOT_FOUND),
    };
    Ok(match rest {
        [name] if *name == usage.name => Target::Document { usage, user },
        [name, "~~", ..] if *name == usage.name => Target::Node,
        [_] | [] => Target::Misplaced(Misplaced::Name),
        _ => Target::Misplaced(Misplaced::Parent),
    })
}

async fn document(state: &AdminState, usage: &'static Usage, user: Aor, request: Request) -> Result<Response, Refusal> {
    let preconditions = preconditions(request.headers())?;
    match *request.method() {
        Method::GET | Method::HEAD => get(state, usage, &user, &preconditions),
        Method::PUT => {
            let body = body(state, usage, request).await?;
            let change = state.plane.put_document(usage, &user, body, preconditions);
            let (status, etag) = match timeout(state.patience.store, change).await {
                Ok(Ok(Put::Created { etag })) => (StatusCode::CREATED, etag),
                Ok(Ok(Put::Replaced { etag })) => (StatusCode::OK, etag),
                Ok(Err(fault)) => return Err(refused(fault)),
                Err(_) => return Err(Refusal::Store(Fault::Broken)),
            };
            Ok((status, [(header::ETAG, quoted(&etag))]).into_response())
        }
        Method::DELETE => {
            match timeout(state.patience.store, state.plane.delete_document(usage, &user, preconditions)).await {
                Ok(Ok(())) => Ok(StatusCode::OK.into_response()),
                Ok(Err(fault)) => Err(refused(fault)),
                Err(_) => Err(Refusal::Store(Fault::Broken)),
            }
        }
        _ => Err(Refusal::Method("GET, HEAD, PUT, DELETE")),
    }
}

fn get(
    state: &AdminState,
    usage: &'static Usage,
    user: &Aor,
    preconditions: &Preconditions,
) -> Result<Response, Refusal> {
    let Some((etag, body)) = state.plane.document(usage, user) else {
        return Err(NO_DOCUMENT);
    };
    let tag = (header::ETAG, quoted(&etag));
    match preconditions.check(Some(&etag)) {
        Ok(()) => Ok(([tag, (header::CONTENT_TYPE, HeaderValue::from_static(usage.mime))], body).into_response()),
        Err(Unmet::NoneMatch) => Ok((StatusCode::NOT_MODIFIED, [tag]).into_response()),
        Err(Unmet::Match) => Err(OTHER_VERSION),
    }
}

/// The body of a PUT: of the right type, complete, in time and not too long.
async fn body(state: &AdminState, usage: &'static Usage, request: Request) -> Result<Bytes, Refusal> {
    let headers = request.headers();
    if headers.contains_key(header::CONTENT_RANGE) {
        // A part must not be taken for the whole (RFC 9110 §14.5).
        return Err(Refusal::bad_request("a document is put as a whole\n"));
    }
    let media_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let media_type = media_type.split(';').next().unwrap_or_default().trim();
    if !media_type.eq_ignore_ascii_case(usage.mime) || headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Refusal::MediaType(usage.mime));
    }
    let announced = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|len| len > DOCUMENT_LEN_MAX as u64) {
        return Err(TOO_LONG);
    }
    match timeout(state.patience.body, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(rejection)) if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE => Err(TOO_LONG),
        Ok(Err(_)) => Err(Refusal::bad_request("the body ended early\n")),
        Err(_) => Err(Refusal::Slow),
    }
}

fn refused(fault: DocumentFault) -> Refusal {
    match fault {
        DocumentFault::Unmet(_) => OTHER_VERSION,
        DocumentFault::TooLarge => TOO_LONG,
        DocumentFault::NotFound => NO_DOCUMENT,
        DocumentFault::Invalid(report) => Refusal::Conflict(report.into()),
        DocumentFault::Store(fault) => Refusal::Store(fault),
    }
}

fn misplaced_answer(misplaced: Misplaced, method: &Method) -> Refusal {
    match *method {
        Method::PUT => Refusal::Conflict(match misplaced {
            Misplaced::Name => error_document("<constraint-failure phrase=\"no document can be here\"/>"),
            Misplaced::Parent => error_document("<no-parent/>"),
        }),
        Method::GET | Method::HEAD | Method::DELETE => NO_DOCUMENT,
        _ => Refusal::Method("GET, HEAD, PUT, DELETE"),
    }
}

/// RFC 4825 §11.2.
fn error_document(condition: &str) -> Box<str> {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <xcap-error xmlns=\"urn:ietf:params:xml:ns:xcap-error\">{condition}</xcap-error>\n"
    )
    .into()
}

/// RFC 4825 §12.
fn capabilities(request: &Request) -> Result<Response, Refusal> {
    const BODY: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
        <xcap-caps xmlns=\"urn:ietf:params:xml:ns:xcap-caps\">\n\
        <auids><auid>xcap-caps</auid><auid>org.openmobilealliance.access-rules</auid>\
        <auid>cpm-pf-user-preferences</auid><auid>resource-lists</auid></auids>\n\
        <namespaces><namespace>urn:ietf:params:xml:ns:xcap-caps</namespace>\
        <namespace>urn:ietf:params:xml:ns:xcap-error</namespace>\
        <namespace>urn:ietf:params:xml:ns:common-policy</namespace>\
        <namespace>urn:oma:xml:xdm:common-policy</namespace><namespace>urn:oma:xml:xdm:extensions</namespace>\
        <namespace>urn:cpm-pf:xml:user-preferences:1.0</namespace>\
        <namespace>urn:ietf:params:xml:ns:resource-lists</namespace></namespaces>\n\
        </xcap-caps>\n";
    let preconditions = preconditions(request.headers())?;
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Refusal::Method("GET, HEAD"));
    }
    let etag = etag_of(BODY.as_bytes());
    let tag = [(header::ETAG, quoted(&etag))];
    match preconditions.check(Some(&etag)) {
        Ok(()) => Ok((tag, [(header::CONTENT_TYPE, "application/xcap-caps+xml")], Body::from(BODY)).into_response()),
        Err(Unmet::NoneMatch) => Ok((StatusCode::NOT_MODIFIED, tag).into_response()),
        Err(Unmet::Match) => Err(OTHER_VERSION),
    }
}

fn preconditions(headers: &HeaderMap) -> Result<Preconditions, Refusal> {
    Ok(Preconditions {
        if_match: entity_tags(headers, header::IF_MATCH)?,
        if_none_match: entity_tags(headers, header::IF_NONE_MATCH)?,
    })
}

fn entity_tags(headers: &HeaderMap, name: HeaderName) -> Result<Option<EntityTags>, Refusal> {
    const BAD: Refusal = Refusal::bad_request("not a list of entity tags\n");
    let mut lines = Vec::new();
    for line in headers.get_all(name) {
        lines.push(line.to_str().map_err(|_| BAD)?);
    }
    if lines.is_empty() {
        return Ok(None);
    }
    EntityTags::parse(&lines.join(",")).map(Some).ok_or(BAD)
}

fn quoted(etag: &str) -> HeaderValue {
    // Our own tags are hexadecimal; one from a damaged store must not end the request.
    HeaderValue::from_str(&format!("\"{etag}\"")).unwrap_or(HeaderValue::from_static("\"\""))
}

const NO_DOCUMENT: Refusal = Refusal::not_found("no such document\n");
const OTHER_VERSION: Refusal = Refusal::Plain(StatusCode::PRECONDITION_FAILED, "the document is another version\n");
const TOO_LONG: Refusal = Refusal::Plain(StatusCode::PAYLOAD_TOO_LARGE, "the document is too large\n");
/// Segments that matter: usage, tree, user, document, and what shows that there are more.
const SEGMENT_COUNT_MAX: usize = 6;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_has_its_target() {
        let policy = documents::usage("org.openmobilealliance.access-rules").unwrap();
        let lists = documents::usage("resource-lists").unwrap();
        let bob = || Aor::from_canonical("sip:bob@home.example");
        let document = |usage, user| Ok(Target::Document { usage, user });
        let (name, parent) = (Ok(Target::Misplaced(Misplaced::Name)), Ok(Target::Misplaced(Misplaced::Parent)));
        let (missing, bad) = (Err(StatusCode::NOT_FOUND), Err(StatusCode::BAD_REQUEST));
        let table = [
            (
                "/xcap/org.openmobilealliance.access-rules/users/sip:bob@home.example/access-rules",
                document(policy, bob()),
            ),
            (
                "/xcap/org.openmobilealliance.access-rules/users/sip%3Abob%40home.example/access-rules",
                document(policy, bob()),
            ),
            (
                "/xcap/org.openmobilealliance.access-rules/users/sip:bob@HOME.example/access%2Drules",
                document(policy, bob()),
            ),
            ("/xcap/resource-lists/users/tel:+1-555-0100/index", document(lists, Aor::from_canonical("tel:+15550100"))),
            ("/xcap/resource-lists/users/sip:bob@home.example/index/~~/resource-lists", Ok(Target::Node)),
            (
                "/xcap/resource-lists/users/sip:bob@home.example/index/%7E%7E/resource-lists/list%5b1%5d/a/b",
                Ok(Target::Node),
            ),
            ("/xcap/resource-lists/users/sip:bob@home.example/friends", name),
            ("/xcap/resource-lists/users/sip:bob@home.example/", Ok(Target::Misplaced(Misplaced::Name))),
            ("/xcap/resource-lists/users/sip:bob@home.example", Ok(Target::Misplaced(Misplaced::Name))),
            ("/xcap/resource-lists/users/", Ok(Target::Misplaced(Misplaced::Name))),
            ("/xcap/resource-lists/global/index", Ok(Target::Misplaced(Misplaced::Name))),
            ("/xcap/resource-lists/users/sip:bob@home.example/sub/index", parent),
            ("/xcap/resource-lists/users/bob/index", bad),
            ("/xcap/resource-lists/users/%ff/index", Err(StatusCode::BAD_REQUEST)),
            ("/xcap/xcap-caps/global/index", Ok(Target::Capabilities)),
            ("/xcap/xcap-caps/users/sip:bob@home.example/index", missing),
            ("/xcap/unheard-of/users/sip:bob@home.example/index", Err(StatusCode::NOT_FOUND)),
            ("/xcap/resource-lists", Err(StatusCode::NOT_FOUND)),
            ("/xcap/resource-lists/others/sip:bob@home.example/index", Err(StatusCode::NOT_FOUND)),
            ("/xcap/", Err(StatusCode::NOT_FOUND)),
            ("/xcap", Err(StatusCode::NOT_FOUND)),
            ("/xcapital/resource-lists/users/sip:bob@home.example/index", Err(StatusCode::NOT_FOUND)),
            ("/", Err(StatusCode::NOT_FOUND)),
        ];
        for (path, target) in table {
            assert_eq!(locate("/xcap", path), target, "{path}");
        }
    }
}

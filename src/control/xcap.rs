//! The documents of the XCAP root: kept, checked, compiled, published.

use super::plane::{Announce, ControlPlane};
use super::precondition::{Preconditions, Unmet};
use crate::base::id::Aor;
use crate::documents::{self, ListAnchor, ResourceLists, Usage};
use crate::participating::policy::{AccessPolicy, MemberSet};
use crate::participating::preferences::Profile;
use crate::participating::storage::{Command, Document, Fault};
use crate::participating::subscriber::Directory;
use bytes::Bytes;
use foldhash::fast::RandomState;
use sha2::{Digest, Sha256};
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::sync::{Arc, Weak};
use tracing::{debug, warn};

/// What a successful PUT did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Put {
    /// There was no document.
    Created {
        /// The new version's entity tag, without quotes.
        etag: Box<str>,
    },
    /// There was one.
    Replaced {
        /// The new version's entity tag, without quotes.
        etag: Box<str>,
    },
}

/// Why a document was not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DocumentFault {
    /// A precondition failed.
    Unmet(Unmet),
    /// There is no such document.
    NotFound,
    /// The document is over a size limit.
    TooLarge,
    /// The document is not valid; the `application/xcap-error+xml` document that says why.
    Invalid(String),
    /// The store did not commit.
    Store(Fault),
}

impl From<Fault> for DocumentFault {
    fn from(fault: Fault) -> Self {
        Self::Store(fault)
    }
}

impl From<documents::Fault> for DocumentFault {
    fn from(fault: documents::Fault) -> Self {
        fault.xcap_error().map_or(Self::TooLarge, Self::Invalid)
    }
}

/// Every document as it was PUT, and who reads whose lists.
#[derive(Default)]
pub(super) struct Library {
    documents: HashMap<Aor, Vec<Stored>, RandomState>,
    lists: HashMap<Aor, Arc<ResourceLists>, RandomState>,
    /// For the owner of lists, the users whose access policies ask for them, whether they exist or not.
    readers: HashMap<Aor, HashSet<Aor, RandomState>, RandomState>,
    /// For a user with an access policy, the owners of the lists that it asks for.
    sources: HashMap<Aor, Vec<Aor>, RandomState>,
    /// Grows with every change of a list.
    lists_version: u64,
    gathered: RefCell<HashMap<Box<str>, Gathered, RandomState>>,
}

struct Stored {
    usage: &'static Usage,
    etag: Box<str>,
    body: Bytes,
}

/// A document in the form that shards work with.
enum Compiled {
    Policy { policy: Arc<AccessPolicy>, sources: Vec<Aor>, lists_version: u64 },
    Profile(Arc<Profile>),
    Lists(Arc<ResourceLists>),
}

impl Library {
    pub(super) fn has_documents(&self, user: &Aor) -> bool {
        self.documents.contains_key(user)
    }

    fn find(&self, usage: &Usage, user: &Aor) -> Option<&Stored> {
        self.documents.get(user)?.iter().find(|stored| stored.usage == usage)
    }

    fn keep(&mut self, user: &Aor, document: Stored) {
        let documents = self.documents.entry(user.clone()).or_default();
        match documents.iter_mut().find(|stored| stored.usage == document.usage) {
            Some(stored) => *stored = document,
            None => documents.push(document),
        }
    }

    fn remove(&mut self, usage: &Usage, user: &Aor) {
        if let Some(documents) = self.documents.get_mut(user) {
            documents.retain(|stored| stored.usage != usage);
            if documents.is_empty() {
                self.documents.remove(user);
            }
        }
    }

    /// Notes whose lists a user's policy asks for.
    fn set_sources(&mut self, user: &Aor, sources: Vec<Aor>) {
        for source in self.sources.remove(user).unwrap_or_default() {
            if let Some(readers) = self.readers.get_mut(&source) {
                readers.remove(user);
                if readers.is_empty() {
                    self.readers.remove(&source);
                }
            }
        }
        for source in &sources {
            self.readers.entry(source.clone()).or_default().insert(user.clone());
        }
        if !sources.is_empty() {
            self.sources.insert(user.clone(), sources);
        }
    }

    fn set_lists(&mut self, user: &Aor, lists: Option<Arc<ResourceLists>>) {
        self.lists_version += 1;
        match lists {
            Some(lists) => drop(self.lists.insert(user.clone(), lists)),
            None => drop(self.lists.remove(user)),
        }
    }

    /// The members of the list that an anchor names, and the owners of every document that was looked into.
    fn members_of(&self, anchor: &str) -> (Vec<Aor>, Option<Arc<MemberSet>>) {
        let mut gathered = self.gathered.borrow_mut();
        if let Some(known) = gathered.get(anchor)
            && let Some(members) = known.members.upgrade()
            && known.from.iter().all(|(owner, lists)| self.are_current(owner, lists.as_ref()))
        {
            return (known.from.iter().map(|(owner, _)| owner.clone()).collect(), Some(members));
        }
        let mut from: Vec<(Aor, Option<Weak<ResourceLists>>)> = Vec::new();
        let members = documents::list_members(anchor, &mut |place| {
            let lists = self.lists_at(place);
            if from.iter().all(|(owner, _)| *owner != place.user) {
                from.push((place.user.clone(), lists.as_ref().map(Arc::downgrade)));
            }
            lists
        });
        let owners = from.iter().map(|(owner, _)| owner.clone()).collect();
        let Some(members) = members.map(Arc::new) else { return (owners, None) };
        if gathered.len() == gathered.capacity() {
            gathered.retain(|_, known| known.members.strong_count() > 0); // before it grows
        }
        gathered.insert(anchor.into(), Gathered { members: Arc::downgrade(&members), from });
        (owners, Some(members))
    }

    /// The lists in a document of the XCAP root; every user may refer to every list.
    fn lists_at(&self, place: &ListAnchor) -> Option<Arc<ResourceLists>> {
        let usage = documents::usage(documents::RESOURCE_LISTS)?;
        let is_ours = *place.auid == *usage.auid && *place.document == *usage.name;
        is_ours.then(|| self.lists.get(&place.user).cloned())?
    }

    fn are_current(&self, owner: &Aor, seen: Option<&Weak<ResourceLists>>) -> bool {
        match (self.lists.get(owner), seen) {
            (Some(lists), Some(seen)) => Weak::ptr_eq(&Arc::downgrade(lists), seen),
            (None, None) => true,
            _ => false,
        }
    }

    fn compile(&self, usage: &Usage, body: &[u8]) -> Result<Compiled, documents::Fault> {
        Ok(match usage.auid {
            documents::ACCESS_RULES => {
                let desk = Desk { library: self, asked: RefCell::default() };
                let policy = Arc::new(documents::compile_access_policy(body, &desk)?);
                Compiled::Policy { policy, sources: desk.asked.into_inner(), lists_version: self.lists_version }
            }
            documents::PREFERENCES => Compiled::Profile(Arc::new(documents::compile_preferences(body)?)),
            _ => {
                debug_assert_eq!(usage.auid, documents::RESOURCE_LISTS, "every usage is compiled");
                Compiled::Lists(Arc::new(documents::compile_resource_lists(body)?))
            }
        })
    }
}

/// Where the compiler of a policy asks for lists; remembers whose it asked for.
struct Desk<'a> {
    library: &'a Library,
    asked: RefCell<Vec<Aor>>,
}

impl documents::Lists for Desk<'_> {
    fn members(&self, anchor: &str) -> Option<Arc<MemberSet>> {
        let mut asked = self.asked.borrow_mut();
        let (owners, members) = self.library.members_of(anchor);
        for owner in owners {
            if !asked.contains(&owner) {
                asked.push(owner);
            }
        }
        members
    }
}

/// Members of a list that several policies may share: an operator's block list is in memory once, whoever uses it.
struct Gathered {
    members: Weak<MemberSet>,
    /// Whose lists they were gathered from, and what those were.
    from: Vec<(Aor, Option<Weak<ResourceLists>>)>,
}

impl ControlPlane {
    /// A document as it was PUT, with its entity tag.
    pub fn document(&self, usage: &Usage, user: &Aor) -> Option<(Box<str>, Bytes)> {
        self.state().library.find(usage, user).map(|stored| (stored.etag.clone(), stored.body.clone()))
    }

    /// Creates or replaces a document; returns when it is durable and published.
    ///
    /// RFC 4825 §8.2.
    pub async fn put_document(
        self: &Arc<Self>,
        usage: &'static Usage,
        user: &Aor,
        body: Bytes,
        preconditions: Preconditions,
    ) -> Result<Put, DocumentFault> {
        let owner = user.clone();
        self.in_turn(user, move |plane| async move { plane.put_now(usage, &owner, body, preconditions).await }).await?
    }

    /// Removes a document; returns when that is durable and published.
    ///
    /// RFC 4825 §8.4.
    pub async fn delete_document(
        self: &Arc<Self>,
        usage: &'static Usage,
        user: &Aor,
        preconditions: Preconditions,
    ) -> Result<(), DocumentFault> {
        let owner = user.clone();
        self.in_turn(user, move |plane| async move { plane.delete_now(usage, &owner, preconditions).await }).await?
    }

    /// Takes over the documents of the store: lists first, since policies ask for them.
    pub(super) fn restore_documents(&self, documents: Vec<Document>) {
        let known = |document: &Document| match documents::usage(&document.auid) {
            Some(usage) if *usage.name == *document.name => Some(usage),
            _ => None,
        };
        let (lists, others): (Vec<_>, Vec<_>) =
            documents.into_iter().partition(|document| *document.auid == *documents::RESOURCE_LISTS);
        let mut useless = 0;
        for document in lists.into_iter().chain(others) {
            let Some(usage) = known(&document) else {
                useless += 1;
                continue;
            };
            let Document { user, etag, body, .. } = document;
            self.meet(&user);
            let compiled = self.state().library.compile(usage, &body);
            self.state().library.keep(&user, Stored { usage, etag, body });
            match compiled {
                Ok(compiled) => self.install(&user, compiled),
                Err(fault) => {
                    useless += 1;
                    debug!(%user, auid = usage.auid, %fault, "a stored document does not compile");
                    self.publish(&user, None, |_| ());
                }
            }
        }
        if useless > 0 {
            warn!(useless, "stored documents that this version does not understand have no effect");
        }
    }

    async fn put_now(
        &self,
        usage: &'static Usage,
        user: &Aor,
        body: Bytes,
        preconditions: Preconditions,
    ) -> Result<Put, DocumentFault> {
        let before = self.document(usage, user).map(|(etag, _)| etag);
        preconditions.check(before.as_deref()).map_err(DocumentFault::Unmet)?;
        documents::check(usage, &body)?;
        let compiled = self.state().library.compile(usage, &body)?;
        let etag = etag_of(&body);

        let document = Document {
            auid: usage.auid.into(),
            user: user.clone(),
            name: usage.name.into(),
            etag: etag.clone(),
            body: body.clone(),
        };
        self.ask_store(Command::PutDocument(Box::new(document))).await?;
        self.meet(user);
        self.state().library.keep(user, Stored { usage, etag: etag.clone(), body });
        self.install_current(user, compiled);
        debug!(%user, auid = usage.auid, %etag, "document put");
        match usage.auid {
            documents::RESOURCE_LISTS => self.recompile_readers(user).await,
            // The latest word wins: a preference document takes back what the admin API said before it.
            documents::PREFERENCES if self.is_overridden(user) => self.set_availability_now(user, None).await?,
            _ => (),
        }
        Ok(if before.is_some() { Put::Replaced { etag } } else { Put::Created { etag } })
    }

    async fn delete_now(
        &self,
        usage: &'static Usage,
        user: &Aor,
        preconditions: Preconditions,
    ) -> Result<(), DocumentFault> {
        let before = self.document(usage, user).map(|(etag, _)| etag);
        preconditions.check(before.as_deref()).map_err(DocumentFault::Unmet)?;
        if before.is_none() {
            return Err(DocumentFault::NotFound);
        }
        self.ask_store(Command::DeleteDocument {
            auid: usage.auid.into(),
            user: user.clone(),
            name: usage.name.into(),
        })
        .await?;
        self.state().library.remove(usage, user);
        match usage.auid {
            documents::ACCESS_RULES => {
                self.state().library.set_sources(user, Vec::new());
                self.publish(user, None, |subscriber| subscriber.policy = None);
            }
            documents::PREFERENCES => {
                self.publish(user, Some(Announce::WhenBecomingReachable), |subscriber| subscriber.profile = None);
            }
            _ => {
                self.state().library.set_lists(user, None);
                self.recompile_readers(user).await;
            }
        }
        self.forget_if_nothing_is_left(user);
        debug!(%user, auid = usage.auid, "document deleted");
        Ok(())
    }

    fn is_overridden(&self, user: &Aor) -> bool {
        self.subscribers().read(user.as_str(), |known| known.is_some_and(|known| known.availability.is_some()))
    }

    /// Installs a document that was compiled before its commit. A list may have changed meanwhile.
    fn install_current(&self, user: &Aor, compiled: Compiled) {
        match compiled {
            Compiled::Policy { lists_version, .. } if lists_version != self.state().library.lists_version => {
                self.recompile_policy(user);
            }
            compiled => self.install(user, compiled),
        }
    }

    /// Publishes a compiled document.
    fn install(&self, user: &Aor, compiled: Compiled) {
        match compiled {
            Compiled::Policy { policy, sources, .. } => {
                self.state().library.set_sources(user, sources);
                self.publish(user, None, |subscriber| subscriber.policy = Some(policy));
            }
            Compiled::Profile(profile) => {
                self.publish(user, Some(Announce::WhenBecomingReachable), |subscriber| {
                    subscriber.profile = Some(profile);
                });
            }
            Compiled::Lists(lists) => {
                self.state().library.set_lists(user, Some(lists));
                self.publish(user, None, |_| ()); // the owner of lists is a known subscriber
            }
        }
    }

    /// Compiles the policies again that ask for the lists of `owner`, with pauses for everybody else's requests.
    async fn recompile_readers(&self, owner: &Aor) {
        let readers: Vec<Aor> = self
            .state()
            .library
            .readers
            .get(owner)
            .map(|readers| readers.iter().cloned().collect())
            .unwrap_or_default();
        for some in readers.chunks(RECOMPILES_PER_YIELD) {
            for reader in some {
                self.recompile_policy(reader);
            }
            tokio::task::yield_now().await;
        }
    }

    /// Compiles a user's stored policy with the lists as they are and publishes it.
    fn recompile_policy(&self, user: &Aor) {
        let compiled = {
            let state = self.state();
            let Some(usage) = documents::usage(documents::ACCESS_RULES) else { return };
            let Some(stored) = state.library.find(usage, user) else { return };
            state.library.compile(usage, &stored.body)
        };
        match compiled {
            Ok(compiled) => self.install(user, compiled),
            Err(fault) => debug!(%user, %fault, "a policy that was valid is not any more"),
        }
    }
}

/// The entity tag of a document: equal exactly for equal bytes, as a strong tag must be.
///
/// RFC 9110 §8.8.3.
pub fn etag_of(body: &[u8]) -> Box<str> {
    let digest = Sha256::digest(body);
    let mut tag = String::with_capacity(2 * ETAG_LEN);
    for byte in &digest[..ETAG_LEN] {
        let _ = write!(tag, "{byte:02x}");
    }
    tag.into()
}

/// Bytes of the digest that make an entity tag.
const ETAG_LEN: usize = 16;
/// Policies compiled again before other tasks get their turn.
const RECOMPILES_PER_YIELD: usize = 16;

#[cfg(test)]
mod tests {
    use super::super::plane::Restored;
    use super::super::precondition::EntityTags;
    use super::super::testing::{Bench, START, aor_of, device, until};
    use super::*;
    use crate::base::time::UnixMillis;
    use crate::participating::policy::PolicyRequest;
    use crate::participating::preferences::{Availability, Media};

    const BOB: &str = "sip:bob@home.example";
    const ALICE: &str = "sip:alice@home.example";
    const MALLORY: &str = "sip:mallory@evil.example";

    fn policy_usage() -> &'static Usage {
        documents::usage(documents::ACCESS_RULES).unwrap()
    }

    fn preferences_usage() -> &'static Usage {
        documents::usage(documents::PREFERENCES).unwrap()
    }

    fn lists_usage() -> &'static Usage {
        documents::usage(documents::RESOURCE_LISTS).unwrap()
    }

    /// Rejects one sender.
    fn policy_against(sender: &str) -> Bytes {
        policy(&format!(r#"<cr:identity><cr:one id="{sender}"/></cr:identity>"#))
    }

    /// Rejects the members of a list of `owner`.
    fn policy_by_list(owner: &str) -> Bytes {
        policy(&format!(
            r#"<ocp:external-list><ocp:entry anc="http://x/resource-lists/users/{owner}/index/~~/resource-lists/list%5B@name=%22blocked%22%5D"/></ocp:external-list>"#
        ))
    }

    fn policy(condition: &str) -> Bytes {
        Bytes::from(format!(
            r#"<cr:ruleset xmlns:cr="urn:ietf:params:xml:ns:common-policy" xmlns:ocp="urn:oma:xml:xdm:common-policy"
                xmlns:oxe="urn:oma:xml:xdm:extensions"><cr:rule id="a"><cr:conditions>{condition}</cr:conditions>
                <cr:actions><oxe:allow-reject-invite>true</oxe:allow-reject-invite></cr:actions></cr:rule></cr:ruleset>"#
        ))
    }

    fn lists(members: &[&str]) -> Bytes {
        let entries: String = members.iter().map(|member| format!(r#"<entry uri="{member}"/>"#)).collect();
        Bytes::from(format!(
            r#"<resource-lists xmlns="urn:ietf:params:xml:ns:resource-lists"><list name="blocked">{entries}</list></resource-lists>"#
        ))
    }

    fn preferences(availability: &str) -> Bytes {
        Bytes::from(format!(
            r#"<cpm-preferences xmlns="urn:cpm-pf:xml:user-preferences:1.0"><profile id="a">
                <availability>{availability}</availability></profile></cpm-preferences>"#
        ))
    }

    fn stored(usage: &Usage, user: &str, body: Bytes) -> Document {
        Document { auid: usage.auid.into(), user: aor_of(user), name: usage.name.into(), etag: etag_of(&body), body }
    }

    fn rejects(bench: &Bench, user: &str, sender: &str) -> bool {
        let request = PolicyRequest {
            originator: &[sender],
            anonymous: false,
            service: "+g.oma.sip-cpm",
            media: Media::PagerModeMessage,
            at: UnixMillis(START),
        };
        bench.plane.subscribers().read(user, |subscriber| {
            subscriber.and_then(|s| s.policy.as_ref().map(|policy| policy.rejects(&request))).unwrap_or(false)
        })
    }

    async fn put(bench: &Bench, usage: &'static Usage, user: &str, body: Bytes) -> Result<Put, DocumentFault> {
        bench.plane.put_document(usage, &aor_of(user), body, Preconditions::default()).await
    }

    async fn delete(bench: &Bench, usage: &'static Usage, user: &str) -> Result<(), DocumentFault> {
        bench.plane.delete_document(usage, &aor_of(user), Preconditions::default()).await
    }

    #[test]
    fn a_document_lives_from_put_to_delete() {
        let bench = Bench::new();
        bench.run(|| async {
            let (one, other) = (policy_against(MALLORY), policy_against(ALICE));
            assert_eq!(bench.plane.document(policy_usage(), &aor_of(BOB)), None);
            let created = put(&bench, policy_usage(), BOB, one.clone()).await;
            assert_eq!(created, Ok(Put::Created { etag: etag_of(&one) }));
            assert!(rejects(&bench, BOB, MALLORY) && !rejects(&bench, BOB, ALICE));
            let replaced = put(&bench, policy_usage(), BOB, other.clone()).await;
            assert_eq!(replaced, Ok(Put::Replaced { etag: etag_of(&other) }));
            assert!(!rejects(&bench, BOB, MALLORY) && rejects(&bench, BOB, ALICE));
            assert_eq!(bench.plane.document(policy_usage(), &aor_of(BOB)), Some((etag_of(&other), other.clone())));
            assert_eq!(delete(&bench, policy_usage(), BOB).await, Ok(()));
            assert_eq!(delete(&bench, policy_usage(), BOB).await, Err(DocumentFault::NotFound));
            assert!(!rejects(&bench, BOB, ALICE));
            let committed = bench.store.take_committed();
            let [Command::PutDocument(first), Command::PutDocument(_), Command::DeleteDocument { .. }] = &committed[..]
            else {
                panic!("{committed:?}");
            };
            assert_eq!(**first, stored(policy_usage(), BOB, one));
        });
    }

    #[test]
    fn a_user_known_by_documents_alone_is_forgotten_with_the_last_one() {
        let bench = Bench::new();
        bench.run(|| async {
            put(&bench, policy_usage(), BOB, policy_against(MALLORY)).await.unwrap();
            put(&bench, lists_usage(), BOB, lists(&[])).await.unwrap();
            delete(&bench, policy_usage(), BOB).await.unwrap();
            assert!(bench.plane.subscribers().contains(BOB));
            delete(&bench, lists_usage(), BOB).await.unwrap();
            assert!(!bench.plane.subscribers().contains(BOB));

            put(&bench, policy_usage(), BOB, policy_against(MALLORY)).await.unwrap();
            bench.plane.register(bench.registration(BOB, "sip:bob@192.0.2.1", 60)).await.unwrap();
            delete(&bench, policy_usage(), BOB).await.unwrap();
            assert!(bench.plane.subscribers().contains(BOB), "he registered");
        });
    }

    #[test]
    fn an_invalid_document_is_refused_and_the_old_one_stays() {
        let bench = Bench::new();
        bench.run(|| async {
            put(&bench, policy_usage(), BOB, policy_against(MALLORY)).await.unwrap();
            let laughs = concat!(
                "<!DOCTYPE l [<!ENTITY a \"ha\"><!ENTITY b \"&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;\">]>",
                "<cr:ruleset xmlns:cr=\"urn:ietf:params:xml:ns:common-policy\">&b;</cr:ruleset>"
            );
            for bad in ["", "<", "<a/>", laughs, "\u{feff}"] {
                let refused = put(&bench, policy_usage(), BOB, Bytes::from(bad)).await;
                assert!(matches!(refused, Err(DocumentFault::Invalid(_))), "{bad}: {refused:?}");
            }
            assert!(rejects(&bench, BOB, MALLORY));
            assert_eq!(bench.store.take_committed().len(), 1);
        });
    }

    #[test]
    fn a_refused_commit_leaves_the_old_document() {
        let bench = Bench::new();
        bench.run(|| async {
            put(&bench, policy_usage(), BOB, policy_against(MALLORY)).await.unwrap();
            bench.store.answer_with(|_| Err(Fault::DiskFull));
            let refused = put(&bench, policy_usage(), BOB, policy_against(ALICE)).await;
            assert_eq!(refused, Err(DocumentFault::Store(Fault::DiskFull)));
            assert_eq!(delete(&bench, policy_usage(), BOB).await, Err(DocumentFault::Store(Fault::DiskFull)));
            assert!(rejects(&bench, BOB, MALLORY) && !rejects(&bench, BOB, ALICE));
            let etag = bench.plane.document(policy_usage(), &aor_of(BOB)).unwrap().0;
            assert_eq!(etag, etag_of(&policy_against(MALLORY)));
        });
    }

    #[test]
    fn of_two_clients_who_know_the_same_version_one_wins() {
        let bench = Bench::new();
        bench.run(|| async {
            let none = Preconditions { if_none_match: Some(EntityTags::Any), ..Preconditions::default() };
            let (bob, usage) = (aor_of(BOB), policy_usage());
            let mut known = none;
            for (mine, yours) in [(MALLORY, ALICE), (ALICE, "sip:eve@home.example")] {
                bench.store.hold(true);
                let one = bench.plane.put_document(usage, &bob, policy_against(mine), known.clone());
                let other = bench.plane.put_document(usage, &bob, policy_against(yours), known.clone());
                let release = async {
                    until(|| !bench.store.mailbox.is_empty()).await;
                    bench.store.hold(false);
                };
                let (one, other, ()) = tokio::join!(one, other, release);
                assert!(one.is_ok());
                assert!(matches!(other, Err(DocumentFault::Unmet(_))), "{other:?}");
                assert!(rejects(&bench, BOB, mine) && !rejects(&bench, BOB, yours));
                let etag = etag_of(&policy_against(mine));
                known =
                    Preconditions { if_match: EntityTags::parse(&format!("\"{etag}\"")), ..Preconditions::default() };
            }
        });
    }

    #[test]
    fn a_preference_document_takes_back_the_word_of_the_admin_api() {
        let bench = Bench::new();
        bench.run(|| async {
            let bob = aor_of(BOB);
            bench.plane.register(bench.registration(BOB, "sip:bob@192.0.2.1", 60)).await.unwrap();
            bench.plane.set_availability(&bob, Some(Availability::NotAvailable)).await.unwrap();
            bench.shards.take_ready();
            bench.store.take_committed();
            put(&bench, preferences_usage(), BOB, preferences("available")).await.unwrap();
            assert_eq!(bench.shards.take_ready(), [BOB]);
            let subscriber = bench.plane.subscribers().find(BOB).unwrap();
            assert_eq!((subscriber.availability, subscriber.availability()), (None, Availability::Available));
            let committed = bench.store.take_committed();
            assert!(matches!(
                &committed[..],
                [Command::PutDocument(_), Command::PutAvailability { availability: None, .. }]
            ));
            put(&bench, preferences_usage(), BOB, preferences("not-available")).await.unwrap();
            assert!(bench.shards.take_ready().is_empty());
            assert_eq!(bench.store.take_committed().len(), 1, "nothing to take back");
            bench.plane.set_availability(&bob, Some(Availability::Available)).await.unwrap();
            assert_eq!(bench.shards.take_ready(), [BOB]);
            bench.plane.set_availability(&bob, None).await.unwrap();
            assert!(bench.shards.take_ready().is_empty());
            delete(&bench, preferences_usage(), BOB).await.unwrap();
            assert_eq!(bench.shards.take_ready(), [BOB], "available where nothing else is said");
        });
    }

    #[test]
    fn policies_follow_the_lists_that_they_name() {
        let bench = Bench::new();
        bench.run(|| async {
            put(&bench, policy_usage(), BOB, policy_by_list(ALICE)).await.unwrap();
            assert!(!rejects(&bench, BOB, MALLORY), "there is no such list");
            put(&bench, lists_usage(), ALICE, lists(&[MALLORY])).await.unwrap();
            assert!(rejects(&bench, BOB, MALLORY));
            put(&bench, lists_usage(), ALICE, lists(&[])).await.unwrap();
            assert!(!rejects(&bench, BOB, MALLORY));
            put(&bench, lists_usage(), ALICE, lists(&[MALLORY])).await.unwrap();
            delete(&bench, lists_usage(), ALICE).await.unwrap();
            assert!(!rejects(&bench, BOB, MALLORY));

            put(&bench, policy_usage(), BOB, policy_against(ALICE)).await.unwrap();
            put(&bench, lists_usage(), ALICE, lists(&[MALLORY])).await.unwrap();
            assert!(!rejects(&bench, BOB, MALLORY), "the policy does not name it any more");
            assert!(bench.plane.state().library.readers.is_empty());
        });
    }

    #[test]
    fn a_list_that_changes_while_a_policy_is_being_committed_counts() {
        let bench = Bench::new();
        bench.run(|| async {
            bench.store.hold(true);
            let one = put(&bench, policy_usage(), BOB, policy_by_list(ALICE));
            let other = put(&bench, lists_usage(), ALICE, lists(&[MALLORY]));
            // The list commits first: its readers are not known yet.
            let release = async {
                until(|| bench.store.mailbox.len() == 2).await;
                bench.store.hold(false);
            };
            let (one, other, ()) = tokio::join!(other, one, release);
            assert!(one.is_ok() && other.is_ok());
            assert!(rejects(&bench, BOB, MALLORY));
        });
    }

    #[test]
    fn a_list_that_many_policies_name_is_in_memory_once() {
        let bench = Bench::new();
        bench.run(|| async {
            put(&bench, lists_usage(), ALICE, lists(&[MALLORY])).await.unwrap();
            for index in 0..100 {
                put(&bench, policy_usage(), &format!("sip:user{index}@home.example"), policy_by_list(ALICE))
                    .await
                    .unwrap();
            }
            let state = bench.plane.state();
            let gathered = state.library.gathered.borrow();
            assert_eq!(gathered.len(), 1);
            assert!(gathered.values().all(|known| known.members.strong_count() >= 100));
        });
    }

    #[test]
    fn documents_work_after_a_restart_whatever_their_order() {
        let later = UnixMillis(START + 60_000);
        let bench = Bench::restored(Restored {
            devices: vec![(aor_of(BOB), vec![device("sip:bob@192.0.2.1", later)])],
            documents: vec![
                stored(policy_usage(), BOB, policy_by_list(ALICE)),
                stored(preferences_usage(), BOB, preferences("not-available")),
                stored(lists_usage(), ALICE, lists(&[MALLORY])),
                stored(policy_usage(), "sip:broken@home.example", Bytes::from_static(b"<broken")),
                Document { auid: "from-the-future".into(), ..stored(lists_usage(), "sip:x@home.example", lists(&[])) },
            ],
            users_with_deferred: vec![aor_of(BOB)],
            ..Restored::default()
        });
        bench.run(|| async {
            assert!(rejects(&bench, BOB, MALLORY));
            assert!(bench.shards.take_ready().is_empty(), "he is not available");
            assert!(bench.plane.subscribers().contains("sip:broken@home.example"));
            assert!(!bench.plane.subscribers().contains("sip:x@home.example"));
            let usage = policy_usage();
            assert_eq!(
                bench.plane.document(usage, &aor_of(BOB)).unwrap().0,
                etag_of(&policy_by_list(ALICE)),
                "the entity tag survives"
            );
            put(&bench, lists_usage(), ALICE, lists(&[])).await.unwrap();
            assert!(!rejects(&bench, BOB, MALLORY));
            put(&bench, preferences_usage(), BOB, preferences("available")).await.unwrap();
            assert_eq!(bench.shards.take_ready(), [BOB]);
        });
    }
}

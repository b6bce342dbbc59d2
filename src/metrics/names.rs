//! Every series, once. A [`Counter`] is one labelled row of a Prometheus counter, a [`Gauge`] of a gauge.

/// Declares an enum whose variants are rows of Prometheus series.
macro_rules! rows {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = ($series:literal, $labels:literal, $help:literal),)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $(#[doc = $help] $variant,)+ }
        impl $name {
            /// Every row, in exposition order: rows of one series stand together.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];
            /// Rows of this kind.
            pub const COUNT: usize = Self::ALL.len();
            /// The series' name.
            pub const fn series(self) -> &'static str { match self { $(Self::$variant => $series,)+ } }
            /// The row's labels, `key="value"`, empty when there are none.
            pub const fn labels(self) -> &'static str { match self { $(Self::$variant => $labels,)+ } }
            /// What the row counts.
            pub const fn help(self) -> &'static str { match self { $(Self::$variant => $help,)+ } }
        }
    };
}

rows! {
    /// Things counted per shard; they only grow.
    Counter {
        RequestMessage = ("ringpost_sip_requests_total", "method=\"MESSAGE\"", "MESSAGE requests received, retransmissions left out"),
        RequestRegister = ("ringpost_sip_requests_total", "method=\"REGISTER\"", "REGISTER requests received, retransmissions left out"),
        RequestOptions = ("ringpost_sip_requests_total", "method=\"OPTIONS\"", "OPTIONS requests received, retransmissions left out"),
        RequestInvite = ("ringpost_sip_requests_total", "method=\"INVITE\"", "INVITE requests received, retransmissions left out"),
        RequestAck = ("ringpost_sip_requests_total", "method=\"ACK\"", "ACK requests received"),
        RequestCancel = ("ringpost_sip_requests_total", "method=\"CANCEL\"", "CANCEL requests received"),
        RequestOther = ("ringpost_sip_requests_total", "method=\"other\"", "requests with any other method"),
        Retransmission = ("ringpost_sip_request_retransmissions_total", "", "requests answered by an existing transaction"),
        ResponseSent1 = ("ringpost_sip_responses_sent_total", "class=\"1xx\"", "provisional responses sent"),
        ResponseSent2 = ("ringpost_sip_responses_sent_total", "class=\"2xx\"", "2xx responses sent"),
        ResponseSent3 = ("ringpost_sip_responses_sent_total", "class=\"3xx\"", "3xx responses sent"),
        ResponseSent4 = ("ringpost_sip_responses_sent_total", "class=\"4xx\"", "4xx responses sent"),
        ResponseSent5 = ("ringpost_sip_responses_sent_total", "class=\"5xx\"", "5xx responses sent"),
        ResponseSent6 = ("ringpost_sip_responses_sent_total", "class=\"6xx\"", "6xx responses sent"),
        ResponseReceived1 = ("ringpost_sip_responses_received_total", "class=\"1xx\"", "provisional responses received"),
        ResponseReceived2 = ("ringpost_sip_responses_received_total", "class=\"2xx\"", "2xx responses received"),
        ResponseReceived3 = ("ringpost_sip_responses_received_total", "class=\"3xx\"", "3xx responses received"),
        ResponseReceived4 = ("ringpost_sip_responses_received_total", "class=\"4xx\"", "4xx responses received"),
        ResponseReceived5 = ("ringpost_sip_responses_received_total", "class=\"5xx\"", "5xx responses received"),
        ResponseReceived6 = ("ringpost_sip_responses_received_total", "class=\"6xx\"", "6xx responses received"),
        DecisionDeliver = ("ringpost_pager_decisions_total", "kind=\"deliver\"", "messages forwarded to devices"),
        DecisionPolicyReject = ("ringpost_pager_decisions_total", "kind=\"policy-reject\"", "messages rejected by access policy"),
        DecisionNotAuthorised = ("ringpost_pager_decisions_total", "kind=\"not-authorised\"", "messages without an authenticated originator"),
        DecisionUnsupportedMedia = ("ringpost_pager_decisions_total", "kind=\"unsupported-media\"", "messages of a media type that is not accepted"),
        DecisionOversize = ("ringpost_pager_decisions_total", "kind=\"oversize\"", "messages over the size limit"),
        DecisionExpired = ("ringpost_pager_decisions_total", "kind=\"expired\"", "messages that had expired on arrival"),
        DecisionReject = ("ringpost_pager_decisions_total", "kind=\"preference-reject\"", "messages rejected by preference"),
        DecisionDefer = ("ringpost_pager_decisions_total", "kind=\"defer\"", "messages put into the deferred queue"),
        DecisionStore = ("ringpost_pager_decisions_total", "kind=\"store\"", "messages put into the message store"),
        DecisionInterwork = ("ringpost_pager_decisions_total", "kind=\"interwork\"", "messages handed to the interworking function"),
        DecisionUnknownUser = ("ringpost_pager_decisions_total", "kind=\"unknown-user\"", "messages for users of whom nothing is known"),
        LargeBridge = ("ringpost_large_decisions_total", "kind=\"bridge\"", "INVITE requests bridged to devices"),
        LargePolicyReject = ("ringpost_large_decisions_total", "kind=\"policy-reject\"", "INVITE requests rejected by access policy"),
        LargeNotAuthorised = ("ringpost_large_decisions_total", "kind=\"not-authorised\"", "INVITE requests without an authenticated originator"),
        LargeVersion = ("ringpost_large_decisions_total", "kind=\"version\"", "INVITE requests of clients whose version is not supported"),
        LargeAnonymous = ("ringpost_large_decisions_total", "kind=\"anonymous\"", "INVITE requests refused because their sender is anonymous"),
        LargeInterval = ("ringpost_large_decisions_total", "kind=\"interval\"", "INVITE requests whose session interval is too small"),
        LargeUnacceptable = ("ringpost_large_decisions_total", "kind=\"unacceptable\"", "INVITE requests whose offer cannot be met"),
        LargeReject = ("ringpost_large_decisions_total", "kind=\"preference-reject\"", "INVITE requests rejected by preference"),
        LargeDefer = ("ringpost_large_decisions_total", "kind=\"defer\"", "large messages taken for the deferred queue"),
        LargeStore = ("ringpost_large_decisions_total", "kind=\"store\"", "large messages taken for the message store"),
        LargeInterwork = ("ringpost_large_decisions_total", "kind=\"interwork\"", "INVITE requests handed to the interworking function"),
        LargeUnknownUser = ("ringpost_large_decisions_total", "kind=\"unknown-user\"", "INVITE requests for users of whom nothing is known"),
        LargeDelivered = ("ringpost_large_messages_total", "outcome=\"delivered\"", "large messages whose last chunk the receiver acknowledged"),
        LargeKept = ("ringpost_large_messages_total", "outcome=\"kept\"", "large messages durably deferred or stored"),
        LargeAborted = ("ringpost_large_messages_total", "outcome=\"aborted\"", "large messages that were aborted or broken off"),
        SessionAnswered = ("ringpost_large_sessions_total", "end=\"answered\"", "sessions that were answered"),
        SessionEnded = ("ringpost_large_sessions_total", "end=\"bye\"", "sessions ended by one of the parties"),
        SessionBroken = ("ringpost_large_sessions_total", "end=\"broken\"", "sessions ended by a lost connection, silence or a timer"),
        MsrpChunk = ("ringpost_msrp_chunks_total", "", "SEND chunks passed on or taken"),
        MsrpBodyBytes = ("ringpost_msrp_body_bytes_total", "", "bytes of SEND bodies passed on or taken"),
        MsrpResponse = ("ringpost_msrp_responses_total", "by=\"peer\"", "responses passed back"),
        MsrpOwnResponse = ("ringpost_msrp_responses_total", "by=\"relay\"", "responses generated here"),
        MsrpReport = ("ringpost_msrp_reports_total", "", "REPORT requests passed on or generated"),
        MsrpRefused = ("ringpost_msrp_faults_total", "kind=\"refused\"", "requests answered with an error of our own"),
        MsrpUnframed = ("ringpost_msrp_faults_total", "kind=\"unframed\"", "connections closed because chunk boundaries were lost"),
        MsrpTimeout = ("ringpost_msrp_faults_total", "kind=\"timeout\"", "chunks that got no response in time"),
        MsrpPaused = ("ringpost_msrp_pauses_total", "", "times a sender was not read from because its receiver is slow"),
        MsrpAccepted = ("ringpost_msrp_connections_total", "side=\"accepted\"", "MSRP connections accepted"),
        MsrpConnected = ("ringpost_msrp_connections_total", "side=\"connected\"", "MSRP connections opened"),
        MsrpConnectFailed = ("ringpost_msrp_connections_total", "side=\"failed\"", "MSRP connections that could not be opened"),
        MsrpBufferCopied = ("ringpost_msrp_buffers_copied_total", "", "receive buffers copied to the heap because too many were held by slow receivers"),
        SpoolBusy = ("ringpost_spool_faults_total", "kind=\"busy\"", "spool commands refused because its queue was full"),
        SpoolFailed = ("ringpost_spool_faults_total", "kind=\"failed\"", "spool commands that the disk failed"),
        DroppedMalformed = ("ringpost_sip_dropped_total", "reason=\"malformed\"", "messages that cannot be answered because they cannot be parsed"),
        DroppedStrayResponse = ("ringpost_sip_dropped_total", "reason=\"stray-response\"", "responses that match no transaction"),
        DroppedStrayAck = ("ringpost_sip_dropped_total", "reason=\"stray-ack\"", "ACK requests that match no transaction"),
        DroppedMailboxFull = ("ringpost_sip_dropped_total", "reason=\"mailbox-full\"", "messages whose owner's mailbox was full"),
        RefusedOverload = ("ringpost_sip_refused_total", "reason=\"overload\"", "requests answered 503 because a table or queue was full"),
        RefusedMalformed = ("ringpost_sip_refused_total", "reason=\"malformed\"", "requests answered 400"),
        RefusedLoop = ("ringpost_sip_refused_total", "reason=\"loop\"", "requests answered 482 or 483"),
        TransactionTimeout = ("ringpost_sip_client_timeouts_total", "", "client transactions that got no final response"),
        TransactionEvicted = ("ringpost_sip_transactions_evicted_total", "", "completed transactions dropped before their linger ended, to make room"),
        HandoverOut = ("ringpost_shard_handovers_total", "direction=\"out\"", "messages given to the shard that owns them"),
        HandoverIn = ("ringpost_shard_handovers_total", "direction=\"in\"", "messages taken over from other shards"),
        StoreQuota = ("ringpost_store_faults_total", "kind=\"quota\"", "commands refused by a user's quota"),
        StoreBusy = ("ringpost_store_faults_total", "kind=\"busy\"", "commands refused because the store's queue was full"),
        StoreDiskFull = ("ringpost_store_faults_total", "kind=\"disk-full\"", "commands refused because the disk is full"),
        StoreBroken = ("ringpost_store_faults_total", "kind=\"broken\"", "commands that the database failed"),
        HistoryRecorded = ("ringpost_history_records_total", "outcome=\"recorded\"", "messages recorded in a conversation history"),
        HistoryFailed = ("ringpost_history_records_total", "outcome=\"failed\"", "messages delivered without the record that their recipient asked for"),
        DeferredDelivered = ("ringpost_deferred_ended_total", "outcome=\"delivered\"", "deferred messages delivered"),
        DeferredRefused = ("ringpost_deferred_ended_total", "outcome=\"refused\"", "deferred messages dropped after a permanent error"),
        DeferredBlocked = ("ringpost_deferred_ended_total", "outcome=\"blocked\"", "deferred messages dropped because the sender was blocked meanwhile"),
        DeferredExpired = ("ringpost_deferred_ended_total", "outcome=\"expired\"", "deferred messages that expired"),
        DeferredRetried = ("ringpost_deferred_retries_total", "", "delivery attempts that will be repeated"),
        NoticeSent = ("ringpost_imdn_sent_total", "", "disposition notifications originated"),
        StreamAccepted = ("ringpost_streams_opened_total", "side=\"accepted\"", "stream connections accepted"),
        StreamConnected = ("ringpost_streams_opened_total", "side=\"connected\"", "stream connections opened"),
        StreamClosed = ("ringpost_streams_closed_total", "reason=\"normal\"", "stream connections closed by either side"),
        StreamSlow = ("ringpost_streams_closed_total", "reason=\"slow\"", "streams closed because a message did not complete in time"),
        StreamFraming = ("ringpost_streams_closed_total", "reason=\"framing\"", "streams closed because message boundaries were lost"),
        StreamFull = ("ringpost_streams_closed_total", "reason=\"backlog\"", "streams closed because their peer does not read"),
        StreamRefused = ("ringpost_streams_closed_total", "reason=\"refused\"", "connections that could not be opened"),
        DatagramTruncated = ("ringpost_udp_truncated_total", "", "datagrams larger than a receive buffer"),
        DatagramSendError = ("ringpost_udp_send_errors_total", "", "datagrams the kernel refused to send"),
        BufferStarved = ("ringpost_ring_enobufs_total", "", "receives that found the buffer pool empty"),
        RingTurn = ("ringpost_shard_turns_total", "", "turns of the event loop"),
        RingIdle = ("ringpost_shard_idle_nanoseconds_total", "", "time spent waiting for completions"),
        DatagramIn = ("ringpost_udp_datagrams_total", "direction=\"in\"", "datagrams received"),
        DatagramOut = ("ringpost_udp_datagrams_total", "direction=\"out\"", "datagrams sent"),
    }
}

rows! {
    /// Levels per shard.
    Gauge {
        ServerTransactions = ("ringpost_sip_transactions", "side=\"server\"", "server transactions, lingering ones included"),
        ClientTransactions = ("ringpost_sip_transactions", "side=\"client\"", "client transactions, lingering ones included"),
        PagerJobs = ("ringpost_pager_messages_in_progress", "", "messages between arrival and final response"),
        DeferredInFlight = ("ringpost_deferred_in_flight", "", "deferred messages being delivered"),
        DeferredWaiting = ("ringpost_deferred_users_waiting", "", "users whose deferred messages wait for their turn"),
        LargeSessions = ("ringpost_large_sessions", "", "sessions between INVITE and the end of their last transaction"),
        MsrpSessions = ("ringpost_msrp_sessions", "", "MSRP sessions"),
        MsrpConnections = ("ringpost_msrp_connections", "", "MSRP connections"),
        MsrpEgressBytes = ("ringpost_msrp_egress_bytes", "", "bytes waiting to leave on MSRP connections"),
        Streams = ("ringpost_streams", "", "open stream connections"),
        MailboxLevel = ("ringpost_shard_mailbox_items", "", "items in the shard's mailbox"),
        SendsInFlight = ("ringpost_ring_sends_in_flight", "", "sends the kernel has not completed"),
    }
}

rows! {
    /// Times measured per shard.
    Stage {
        Handle = ("ringpost_stage_seconds", "stage=\"handle\"", "one SIP message through index, transactions, policy and decision"),
        StoreCommit = ("ringpost_stage_seconds", "stage=\"store-commit\"", "command to durable commit"),
        CoreRoundTrip = ("ringpost_stage_seconds", "stage=\"core-round-trip\"", "forwarded request to final response"),
        Total = ("ringpost_stage_seconds", "stage=\"total\"", "request received to final response sent"),
    }
}

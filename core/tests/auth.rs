//! Schemes, identities and access rules, as ZooKeeper 3.9 has them.

use std::sync::Arc;

mod leader;

use leader::{Client, Leader, address, check, create, delete, entry, plain, set, set_acl};
use pigeonhole_core::auth::{AuthSettings, Identities, Identity, authenticate, is_valid_id};
use pigeonhole_core::base::bytes::Reader;
use pigeonhole_core::base::error::ErrorCode;
use pigeonhole_core::base::limits::{CREDENTIAL_BYTES_MAX, IDENTITIES_PER_CONNECTION_MAX};
use pigeonhole_core::base::prng::Prng;
use pigeonhole_core::op::{Acl, CreateMode, Request, permission};
use pigeonhole_core::state::acl::{self, AccessList, Readers};
use pigeonhole_core::state::apply::Change;
use pigeonhole_core::txn::AclEntry;

fn pairs(identities: &[Identity]) -> Vec<(&str, &str)> {
    identities.iter().map(|identity| (identity.scheme.as_str(), identity.id.as_str())).collect()
}

#[test]
fn digest_is_user_and_hash_of_user_and_password() {
    let settings = AuthSettings::default();
    let proven = |credential: &[u8]| {
        authenticate("digest", Some(credential), address("10.0.0.7"), &settings).unwrap()
    };
    // The example that ZooKeeper's documentation and its tests use.
    let known = [("digest", "super:xQJmxLMiHGwaqBvst5y6rkB6HQs=")];
    assert_eq!(pairs(&proven(b"super:admin")), known);
    // The user ends at the first colon, the hash covers everything.
    assert!(proven(b"user:pass:word")[0].id.starts_with("user:"));
    assert_ne!(proven(b"user:pass:word"), proven(b"user:pass"));
    // Without a colon, everything is the user.
    assert!(proven(b"user")[0].id.starts_with("user:"));
}

#[test]
fn the_super_digest_proves_the_superuser() {
    let settings = AuthSettings {
        super_digest: Some("super:xQJmxLMiHGwaqBvst5y6rkB6HQs=".to_string()),
        ..AuthSettings::default()
    };
    let proven = |credential: &[u8]| {
        authenticate("digest", Some(credential), address("10.0.0.7"), &settings).unwrap()
    };
    let right = proven(b"super:admin");
    assert_eq!(right.len(), 2);
    assert_eq!(pairs(&right)[0], ("super", ""));
    assert_eq!(pairs(&right)[1].0, "digest");
    assert_eq!(pairs(&proven(b"super:wrong")).len(), 1);
    assert!(!format!("{settings:?}").contains("xQJ"), "a digest is never printed");
}

#[test]
fn other_schemes() {
    let settings = AuthSettings::default();
    let result =
        |scheme, address_text| authenticate(scheme, Some(b"x"), address(address_text), &settings);
    assert_eq!(pairs(&result("ip", "10.0.0.7").unwrap()), [("ip", "10.0.0.7")]);
    // An IPv4 client on a dual-stack socket is an IPv4 client.
    assert_eq!(pairs(&result("ip", "::ffff:10.0.0.7").unwrap()), [("ip", "10.0.0.7")]);
    for unknown in ["world", "auth", "super", "sasl", "x509", "", "Digest"] {
        assert!(result(unknown, "10.0.0.7").is_err(), "{unknown}");
    }
    let long = vec![b'a'; CREDENTIAL_BYTES_MAX + 1];
    assert!(authenticate("digest", Some(&long), address("::1"), &settings).is_err());
    assert!(authenticate("digest", None, address("::1"), &settings).is_err());
    assert!(authenticate("digest", Some(b""), address("::1"), &settings).is_ok());
    assert!(authenticate("ip", None, address("::1"), &settings).is_ok());
}

#[test]
fn which_ids_an_acl_may_name() {
    for (scheme, id, valid) in [
        ("digest", "user:hash", true),
        ("digest", ":hash", true),
        ("digest", "user:hash:", true), // Java's split drops empty parts at the end.
        ("digest", "user", false),
        ("digest", "user:", false),
        ("digest", "a:b:c", false),
        ("digest", "", false),
        ("digest", ":", false),
        ("ip", "10.0.0.7", true),
        ("ip", "10.0.0.0/8", true),
        ("ip", "10.0.0.0/32", true),
        ("ip", "10.0.0.0/33", false),
        ("ip", "10.0.0.0/-1", false),
        ("ip", "10.0.0.0/", false),
        ("ip", "10.0.0", false),
        ("ip", "10.0.0.256", false),
        ("ip", "10.0.0.1.2", false),
        ("ip", "localhost", false),
        ("ip", "fe80::/10", true),
        ("ip", "::1", true),
        ("ip", "::1/129", false),
        ("ip", "1:2:3", false),
        ("world", "somebody", false),
        ("super", "", false),
        ("sasl", "user", false),
    ] {
        assert_eq!(is_valid_id(scheme, id), valid, "{scheme}:{id}");
    }
}

#[test]
fn address_ranges() {
    for (address, range, inside) in [
        ("10.0.0.7", "10.0.0.7", true),
        ("10.0.0.8", "10.0.0.7", false),
        ("10.200.3.4", "10.0.0.0/8", true),
        ("11.0.0.0", "10.0.0.0/8", false),
        ("10.0.0.129", "10.0.0.128/25", true),
        ("10.0.0.127", "10.0.0.128/25", false),
        ("1.2.3.4", "0.0.0.0/0", true),
        ("::1", "0.0.0.0/0", false),
        ("::1", "::/0", true),
        ("fe80::1", "fe80::/10", true),
        ("fec0::1", "fe80::/10", false),
        ("2001:db8::1", "2001:0db8:0:0:0:0:0:1", true),
        ("10.0.0.7", "nonsense", false),
    ] {
        let list = AccessList::of(&[entry(permission::READ, "ip", range)]);
        let client = AuthSettings::default().newcomer(leader::address(address));
        assert_eq!(list.permits(&client, permission::READ), inside, "{address} in {range}");
    }
}

#[test]
fn without_checks_everybody_passes_them() {
    let closed = AccessList::of(&[entry(permission::READ, "digest", "bob:h")]);
    for skip_acl in [false, true] {
        let settings = AuthSettings { skip_acl, ..AuthSettings::default() };
        let client = settings.newcomer(address("10.0.0.7"));
        assert_eq!(closed.permits(&client, permission::WRITE), skip_acl);
    }
}

#[test]
fn identities_collect_once_and_within_bounds() {
    let identity =
        |number: usize| Identity { scheme: "digest".to_string(), id: format!("u{number}:h") };
    let one = Identities::none().with(vec![identity(1)]).unwrap();
    let same = one.with(vec![identity(1)]).unwrap();
    assert_eq!(one, same);
    let many: Vec<_> = (0..IDENTITIES_PER_CONNECTION_MAX).map(identity).collect();
    let full = Identities::none().with(many).unwrap();
    assert_eq!(full.iter().count(), IDENTITIES_PER_CONNECTION_MAX);
    assert!(full.with(vec![identity(1)]).is_ok());
    assert!(full.with(vec![identity(1000)]).is_err());
}

#[test]
fn identities_travel_as_these_bytes() {
    let identities =
        Client::new(pigeonhole_core::base::id::SessionId(1)).with_auth("super:admin").identities;
    let mut bytes = Vec::new();
    identities.encode(&mut bytes);
    let golden = [
        b"\x03\x00".as_slice(),
        b"\x02\x00ip\x08\x0010.0.0.7",
        b"\x05\x00super\x00\x00",
        b"\x06\x00digest\x22\x00super:xQJmxLMiHGwaqBvst5y6rkB6HQs=",
    ]
    .concat();
    assert_eq!(bytes, golden);
    let mut reader = Reader::new(&bytes);
    assert_eq!(Identities::decode(&mut reader).unwrap(), identities);
    assert!(reader.is_empty());
    for length in 0..bytes.len() {
        assert!(Identities::decode(&mut Reader::new(&bytes[..length])).is_err());
    }
    assert!(Identities::decode(&mut Reader::new(b"\x01\x00\x01\x00\xff\x00\x00")).is_err());
    assert!(Identities::decode(&mut Reader::new(b"\xff\xff")).is_err());
}

#[test]
fn who_am_i_tells_names_and_no_digests() {
    let identities =
        Client::new(pigeonhole_core::base::id::SessionId(1)).with_auth("super:admin").identities;
    let names: Vec<_> = identities.iter().map(Identity::user_name).collect();
    assert_eq!(names, ["10.0.0.7", "", "super"]);
}

#[test]
fn what_a_list_of_a_request_becomes() {
    let client = Client::new(pigeonhole_core::base::id::SessionId(1)).with_auth("bob:secret");
    let bob = client.identities.iter().last().unwrap().id.clone();
    let nobody = AuthSettings::default().newcomer(address("10.0.0.7"));
    let acl = |permissions, scheme, id| Acl { permissions, scheme, id };
    let fixup = |list: &[Acl<'_>]| acl::fixup(list, &client.identities);

    assert!(fixup(&[]).is_err(), "an empty list");
    let twice = [acl(31, "world", "anyone"), acl(31, "world", "anyone")];
    assert_eq!(fixup(&twice).unwrap(), [entry(31, "world", "anyone")]);
    let two = [acl(1, "world", "anyone"), acl(2, "world", "anyone")];
    assert_eq!(fixup(&two).unwrap().len(), 2, "other permissions, another entry");
    assert!(fixup(&[acl(31, "world", "somebody")]).is_err());
    // The address is an identity, but not an authenticated one.
    assert_eq!(fixup(&[acl(3, "auth", "")]).unwrap(), [entry(3, "digest", &bob)]);
    assert!(acl::fixup(&[acl(3, "auth", "")], &nobody).is_err());
    // Duplicates are dropped before `auth` is spelled out.
    let both = [acl(3, "auth", ""), acl(3, "digest", &bob)];
    assert_eq!(fixup(&both).unwrap().len(), 2);
    assert!(fixup(&[acl(31, "digest", "bob")]).is_err());
    assert!(fixup(&[acl(31, "ip", "10.0.0.0/8"), acl(1, "nonsense", "x")]).is_err());
    let many: Vec<_> = (0..2000).map(|number| acl(number, "world", "anyone")).collect();
    assert!(fixup(&many).is_err(), "more entries than any list may have");
}

#[test]
fn masked_lists_tell_who_but_no_digest() {
    let list = [entry(31, "digest", "bob:c2VjcmV0"), entry(1, "ip", "10.0.0.7")];
    let expected = [entry(31, "digest", "bob:x"), entry(1, "ip", "10.0.0.7")];
    assert_eq!(acl::masked(&list), expected);
}

/// One permission is missing at a time: exactly the operation that needs it is refused.
#[test]
fn every_operation_needs_its_permission_for_every_scheme() {
    let operations: [(&str, u32, Request<'static>); 5] = [
        ("create", permission::CREATE, plain("/guarded/new")),
        ("delete", permission::DELETE, delete("/guarded/child", -1)),
        ("setData", permission::WRITE, set("/guarded", -1)),
        ("setACL", permission::ADMIN, set_acl("/guarded", &leader::OPEN, -1)),
        ("check", permission::READ, Request::Multi(vec![check("/guarded", -1)])),
    ];
    let bob = Client::new(pigeonhole_core::base::id::SessionId(1)).with_auth("bob:secret");
    let bob = bob.identities.iter().last().unwrap().id.clone();
    let schemes = [("world", "anyone"), ("digest", bob.as_str()), ("ip", "10.0.0.0/24")];
    for (scheme, id) in schemes {
        for (name, needed, request) in &operations {
            for permissions in [permission::ALL, permission::ALL & !needed, *needed, 0] {
                let mut leader = Leader::new();
                let member = leader.client(1).with_auth("bob:secret");
                let mut stranger = leader.client(2);
                stranger.identities = AuthSettings::default().newcomer(address("192.168.0.1"));
                let root = leader.client(3).with_auth("super:admin");
                let acl = [Acl { permissions, scheme, id }];
                let guarded = create("/guarded", CreateMode::Persistent, &acl);
                leader.run(&root, &guarded).unwrap();
                leader.run(&root, &plain("/guarded/child")).unwrap();

                let is_allowed = permissions & needed != 0;
                let expect = |allowed| {
                    if allowed { Ok(()) } else { Err(ErrorCode::NoAuth) }
                };
                let context = format!("{name} with {permissions} for {scheme}");
                let refused = leader.run(&stranger, request).map(|_| ());
                assert_eq!(refused, expect(is_allowed && scheme == "world"), "{context}");
                if scheme == "world" && is_allowed {
                    continue;
                }
                let result = leader.run(&member, request).map(|_| ());
                assert_eq!(result, expect(is_allowed), "{context}");
                if !is_allowed {
                    assert!(leader.run(&root, request).is_ok(), "super: {context}");
                }
            }
        }
    }
}

/// A pending setACL binds the requests behind it: they are judged before it is applied.
#[test]
fn a_pending_list_is_the_list() {
    let mut leader = Leader::new();
    let bob = leader.client(1).with_auth("bob:secret");
    let eve = leader.client(2);
    leader.run(&bob, &plain("/door")).unwrap();
    let mine = [Acl { permissions: 31, scheme: "auth", id: "" }];
    let locked = leader.write(&bob, &set_acl("/door", &mine, -1)).unwrap();
    for request in [set("/door", -1), plain("/door/in"), set_acl("/door", &leader::OPEN, -1)] {
        let refusal = leader.write(&eve, &request).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::NoAuth);
        assert_eq!(refusal.judged_by, locked, "the refusal rests on the pending list");
    }
    // The list of a pending create binds as well, and survives a change of the data.
    let own = create("/own", CreateMode::Persistent, &mine);
    leader.write(&bob, &own).unwrap();
    leader.write(&bob, &set("/own", -1)).unwrap();
    assert_eq!(leader.write(&eve, &set("/own", -1)).unwrap_err().code, ErrorCode::NoAuth);
    leader.apply_all();
    assert_eq!(leader.run(&eve, &set("/own", -1)), Err(ErrorCode::NoAuth));
}

/// Nobody is refused where no list is.
#[test]
fn an_empty_list_allows_everything() {
    assert!(AccessList::of(&[]).permits(&Identities::none(), permission::ALL));
    let listed = AccessList::of(&[entry(permission::READ, "world", "anyone")]);
    assert!(!listed.permits(&Identities::none(), permission::WRITE));
}

/// A multi of a thousand changes would otherwise copy a list a thousand times, on every server.
#[test]
fn changes_share_the_list_of_their_znode() {
    let mut leader = Leader::new();
    let bob = leader.client(1).with_auth("bob:secret");
    let mine = [Acl { permissions: 31, scheme: "auth", id: "" }];
    leader.run(&bob, &create("/own", CreateMode::Persistent, &mine)).unwrap();
    leader.run(&bob, &Request::Multi(vec![set("/own", -1), set("/own", -1)])).unwrap();
    let tree = leader.state.tree();
    let list = tree.access(tree.find("/own").unwrap()).entries();
    let is_shared = |change: Change<'_>| match change.readers {
        Readers::Listed(readers) => Arc::ptr_eq(readers.entries(), list),
        Readers::Everyone => false,
    };
    assert_eq!(leader.applied.changes().map(is_shared).collect::<Vec<_>>(), [true, true]);
}

/// What a list allows is what ZooKeeper finds by holding every identity against every entry.
#[test]
fn a_list_allows_what_any_of_its_entries_allows() {
    const ADDRESSES: [&str; 4] = ["10.0.0.7", "10.1.0.7", "192.168.0.1", "fe80::1"];
    let mut prng = Prng::new(7);
    let mut draw = |below: u64| usize::try_from(prng.below(below)).unwrap();
    let mut allowed = 0;
    for _ in 0..2000 {
        let acl: Vec<AclEntry> = (0..1 + draw(40))
            .map(|_| {
                let permissions = [0, 1, 2, 3, 16, 31][draw(6)];
                match draw(12) {
                    0 => entry(permissions & 1, "world", "anyone"),
                    1..4 => entry(permissions, "ip", ADDRESSES[draw(4)]),
                    4 => entry(permissions, "ip", ["10.0.0.0/16", "fe80::/10"][draw(2)]),
                    _ => entry(permissions, "digest", &format!("user{}:hash", draw(50))),
                }
            })
            .collect();
        let users = (0..draw(5)).map(|_| Identity {
            scheme: "digest".to_string(),
            id: format!("user{}:hash", draw(50)),
        });
        let identities = users.collect();
        let address = address(ADDRESSES[draw(4)]);
        let identities = AuthSettings::default().newcomer(address).with(identities).unwrap();
        let names = |entry: &AclEntry, identity: &Identity| match entry.id.as_str() {
            "anyone" => true,
            "10.0.0.0/16" => identity.id == "10.0.0.7",
            "fe80::/10" => identity.id == "fe80::1",
            id => identity.scheme == entry.scheme && identity.id == id,
        };
        let list = AccessList::of(&acl);
        for permissions in [permission::READ, permission::WRITE, permission::ADMIN, 3] {
            let expected = acl.iter().any(|entry| {
                entry.permissions & permissions != 0
                    && identities.iter().any(|identity| names(entry, identity))
            });
            assert_eq!(list.permits(&identities, permissions), expected, "{acl:?} {identities:?}");
            allowed += usize::from(expected);
        }
    }
    assert!((1000..7000).contains(&allowed), "{allowed} of 8000");
}

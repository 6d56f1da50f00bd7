use super::*;

#[test]
fn reads_nested_containers_with_shared_nodes() {
    // pickle.dumps({"a": [1, -2, 3.5, None, True], "b": shared, "c": shared}, 2) with shared = (70000, "x")
    let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffG\x40\x0c\x00\x00\x00\x00\x00\x00N\x88eX\x01\x00\x00\x00bq\x03Jp\x11\x01\x00X\x01\x00\x00\x00xq\x04\x86q\x05X\x01\x00\x00\x00cq\x06h\x05u.";
    let pickle = Pickle::parse(bytes).unwrap();
    let root = pickle.root();
    let list = pickle.items(pickle.get(root, "a").unwrap()).unwrap();
    assert_eq!(pickle.int(list[1]), Some(-2));
    assert_eq!(pickle.float(list[2]), Some(3.5));
    assert_eq!(pickle.node(list[3]), &Node::None);
    assert_eq!(pickle.get(root, "b"), pickle.get(root, "c"), "shared nodes stay shared");
    let tuple = pickle.items(pickle.get(root, "b").unwrap()).unwrap();
    assert_eq!(pickle.int(tuple[0]), Some(70000));
}

#[test]
fn records_calls_and_runs_nothing() {
    // The classic attack: os.system("...").
    let pickle = Pickle::parse(b"cos\nsystem\n(S'touch /nowhere'\ntR.").unwrap();
    let object = pickle.object(pickle.root()).unwrap();
    assert_eq!(pickle.class(object), "os.system");
    assert_eq!(pickle.str(object.args[0]), Some("touch /nowhere"));
}

#[test]
fn a_cycle_is_data() {
    // l = []; l.append(l)
    let pickle = Pickle::parse(b"\x80\x02]q\x00h\x00a.").unwrap();
    assert_eq!(pickle.items(pickle.root()), Some(&[pickle.root()][..]));
}

#[test]
fn protocol_four_names_and_memo() {
    // pickle.dumps(collections.OrderedDict(a=1), 4)
    let bytes =
        b"\x80\x04\x95\x20\x00\x00\x00\x00\x00\x00\x00\x8c\x0bcollections\x94\x8c\x0bOrderedDict\x94\x93\x94)R\x94\x8c\x01a\x94K\x01s.";
    let pickle = Pickle::parse(bytes).unwrap();
    assert_eq!(pickle.get(pickle.root(), "a").and_then(|id| pickle.int(id)), Some(1));
}

#[test]
fn says_what_is_wrong_and_where() {
    for (bytes, text) in [
        (&b"\x80\x02}q\x00(X\x05\x00\x00\x00ab"[..], "ends early"),
        (b"\x80\x02\xfe.", "unknown opcode 0xfe"),
        (b"\x80\x63.", "protocol 99"),
        (b"\x80\x02h\x07.", "memo entry 7"),
        (b"\x80\x02.", "stack is empty"),
        (b"\x80\x02X\xff\xff\xff\xff.", "ends early"),
        (b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xff.", "ends early"),
        (b"\x80\x02K\x01)R.", "as if it were a class"),
        (b"\x80\x02}(K\x01u.", "key without a value"),
        (b"\x80\x02(0.", "behind a mark"),
        (b"", "ends early"),
    ] {
        let error = Pickle::parse(bytes).unwrap_err().to_string();
        assert!(error.contains(text), "{bytes:?}: {error}");
        assert!(error.contains("at byte"));
    }
}

#[test]
fn every_truncation_and_every_flipped_byte_is_survived() {
    let bytes = b"\x80\x02}q\x00(X\x01\x00\x00\x00aq\x01]q\x02(K\x01J\xfe\xff\xff\xffNeX\x01\x00\x00\x00bq\x03ccollections\nOrderedDict\n)Rq\x04K\x01K\x02su.";
    assert!(Pickle::parse(bytes).is_ok());
    for end in 0..bytes.len() {
        assert!(Pickle::parse(&bytes[..end]).is_err());
    }
    for at in 0..bytes.len() {
        for value in 0..=255 {
            let mut copy = bytes.to_vec();
            copy[at] = value;
            let _ = Pickle::parse(&copy); // must return, whatever it says
        }
    }
}

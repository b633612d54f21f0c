//! Extended headers of POSIX: records of `LENGTH KEY=VALUE\n`.

/// Prefix of the keys that hold extended attributes. star, GNU tar, bsdtar and sqfstar use the same.
pub const XATTR: &[u8] = b"SCHILY.xattr.";

/// Appends a record; the length includes its own digits.
pub fn push(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + 1;
    while len != rest + len.to_string().len() {
        len = rest + len.to_string().len();
    }
    records.extend_from_slice(format!("{len} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// Reads all records; `None` when they are not well formed.
pub fn parse(mut records: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut found = Vec::new();
    while !records.is_empty() {
        let digits = records.iter().position(|&byte| byte == b' ')?;
        let len: usize = std::str::from_utf8(&records[..digits]).ok()?.parse().ok()?;
        let record = records.get(digits + 1..len)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&byte| byte == b'=')?;
        found.push((&record[..equals], &record[equals + 1..]));
        records = &records[len..];
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_length_counts_its_own_digits_also_where_they_become_more() {
        for len in 0..1200 {
            let value = vec![b'\n'; len];
            let mut records = Vec::new();
            push(&mut records, b"k", &value);
            push(&mut records, b"other", b"v");
            assert_eq!(parse(&records), Some(vec![(&b"k"[..], &value[..]), (b"other", b"v")]), "{len}");
        }
    }

    #[test]
    fn records_that_lie_about_their_length_are_refused() {
        for bad in
            [&b"9 a=b\n"[..], b"99999999999999999999999 a=b\n", b"x a=b\n", b"6 a=b ", b"2 ", b"0 a=b\n", b"5 ab\n"]
        {
            assert_eq!(parse(bad), None, "{}", String::from_utf8_lossy(bad));
        }
    }
}

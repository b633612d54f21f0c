//! Parts of an image that a kit boot never uses: found in the archive of its root, and left out of the next archive.
//!
//! The list is short on purpose. Nothing on it is ever loaded, linked or included by a program; and the files that
//! programs are linked against are recorded before and after, so that a mistake is found and not published.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Seek, Write};

use anyhow::{Context, ensure};

use crate::digest;
use archive::{Entry, Kind, Reader, Skip, Writer};

/// A kind of files that can be left out.
#[derive(Debug)]
struct Rule {
    what: &'static str,
    /// Only when asked for: people read it, programs seldom.
    documents: bool,
    /// Everything below one of these is left out; the directory itself stays.
    below: &'static [&'static str],
    /// Links and files in the root directory whose names begin so are left out.
    at_top: &'static [&'static str],
}

const RULES: [Rule; 5] = [
    Rule { what: "kernels and boot loader", documents: false, below: &["boot/"], at_top: &["vmlinuz", "initrd.img"] },
    Rule { what: "kernel modules", documents: false, below: &["lib/modules/", "usr/lib/modules/"], at_top: &[] },
    Rule { what: "firmware", documents: false, below: &["lib/firmware/", "usr/lib/firmware/"], at_top: &[] },
    Rule {
        what: "package caches",
        documents: false,
        below: &[
            "var/cache/apt/",
            "var/lib/apt/lists/",
            "var/cache/dnf/",
            "var/cache/yum/",
            "var/cache/apk/",
            "var/cache/zypp/",
        ],
        at_top: &[],
    },
    Rule {
        what: "documents and translations",
        documents: true,
        below: &["usr/share/doc/", "usr/share/man/", "usr/share/info/", "usr/share/locale/", "var/cache/man/"],
        at_top: &[],
    },
];

/// Directories that package managers expect.
const STAYS: [&str; 2] = ["var/cache/apt/archives/partial", "var/lib/apt/lists/partial"];

/// A number of files with their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Amount {
    /// Files, links and devices; directories do not count.
    pub files: u64,
    /// Bytes of their content.
    pub bytes: u64,
}

impl Amount {
    fn add(&mut self, entry: &Entry) {
        self.files += u64::from(entry.kind != Kind::Directory);
        self.bytes += entry.kind.size();
    }
}

/// What programs are linked against: each shared object, and each file that says where the loader finds them,
/// with its digest or the target of the link.
pub type Libraries = BTreeMap<String, String>;

/// What was found in a root.
#[derive(Debug, Default)]
pub struct Findings {
    /// What can be left out, by its kind.
    pub dropped: Vec<(&'static str, Amount)>,
    /// The rest.
    pub kept: Amount,
    /// All shared objects, except those in directories of kernel modules: no program is linked against them.
    pub libraries: Libraries,
}

/// Reads the archive of a root and writes what is not left out to `out`, if there is one.
///
/// # Errors
/// When the archive is damaged or cannot be written; when a file that programs are linked against would be left out.
pub fn slim(archive: &File, documents: bool, out: Option<&File>) -> anyhow::Result<Findings> {
    // A second name of a file has no content of its own, so the first name must stay.
    let mut needed = BTreeSet::new();
    each(archive, |entry, _| {
        if let (Kind::HardLink(target), None) = (&entry.kind, rule(&name(&entry.path), documents)) {
            needed.insert(name(target));
        }
        Ok(())
    })?;
    let mut findings = Findings::default();
    let mut dropped = [Amount::default(); RULES.len()];
    let mut writer = out.map(|out| Writer::new(BufWriter::new(out)));
    each(archive, |entry, content| {
        let path = name(&entry.path);
        let number = rule(&path, documents).filter(|_| !needed.contains(&path) && !STAYS.contains(&path.as_str()));
        if let Some(number) = number {
            dropped[number].add(entry);
            ensure!(!is_library(&path), "{path} belongs to '{}' and looks like a library", RULES[number].what);
            return Ok(());
        }
        findings.kept.add(entry);
        let mut content = Hashed { content, hash: is_library(&path).then(digest::Running::default) };
        match &mut writer {
            Some(writer) => writer.entry(entry, &mut content)?,
            None => drop(io::copy(&mut content, &mut io::sink())?),
        }
        if let Some(hash) = content.hash {
            let state = match &entry.kind {
                Kind::Symlink(target) | Kind::HardLink(target) => format!("→ {}", name(target)),
                _ => hash.finish(),
            };
            findings.libraries.insert(path, state);
        }
        Ok(())
    })?;
    if let Some(writer) = writer {
        writer.finish()?.flush()?;
    }
    let all = RULES.iter().zip(dropped).filter(|(rule, _)| documents || !rule.documents);
    findings.dropped = all.map(|(rule, amount)| (rule.what, amount)).collect();
    Ok(findings)
}

/// Calls `visit` with each entry of the archive and its content.
fn each(archive: &File, mut visit: impl FnMut(&Entry, &mut dyn io::Read) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let mut file = archive;
    file.rewind()?;
    let mut reader = Reader::new(Stream(BufReader::new(file)));
    while let Some(entry) = reader.next_entry().context("the root's archive")? {
        visit(&entry, &mut reader.content())?;
    }
    Ok(())
}

struct Stream<R>(R);

impl<R: io::Read> io::Read for Stream<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: io::Read> Skip for Stream<R> {}

/// Content that is hashed while it is read.
struct Hashed<'a> {
    content: &'a mut dyn io::Read,
    hash: Option<digest::Running>,
}

impl io::Read for Hashed<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.content.read(buf)?;
        if let Some(hash) = &mut self.hash {
            hash.add(&buf[..n]);
        }
        Ok(n)
    }
}

/// A name in the form of the rules: without a slash or dot at its ends.
fn name(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    text.trim_start_matches("./").trim_matches('/').to_owned()
}

fn rule(path: &str, documents: bool) -> Option<usize> {
    RULES.iter().position(|rule| {
        let at_top = !path.contains('/') && rule.at_top.iter().any(|start| path.starts_with(start));
        (documents || !rule.documents) && (at_top || rule.below.iter().any(|directory| path.starts_with(directory)))
    })
}

fn is_library(path: &str) -> bool {
    if path.starts_with("lib/modules/") || path.starts_with("usr/lib/modules/") {
        return false;
    }
    let file = path.rsplit('/').next().unwrap_or_default();
    let shared_object = file.split_once(".so").is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('.'));
    shared_object || path == "etc/ld.so.cache" || path == "etc/ld.so.conf" || path.starts_with("etc/ld.so.conf.d/")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(path: &str, kind: Kind) -> Entry {
        Entry { path: path.into(), kind, mode: 0o755, uid: 0, gid: 0, mtime: 1, xattrs: Vec::new() }
    }

    fn archive(entries: &[(&str, Kind)]) -> File {
        let file = tempfile::tempfile().unwrap();
        let mut writer = Writer::new(&file);
        for (path, kind) in entries {
            let mut content = io::repeat(b'x');
            writer.entry(&entry(path, kind.clone()), &mut content).unwrap();
        }
        writer.finish().unwrap();
        file
    }

    fn names(archive: &File) -> Vec<String> {
        let mut names = Vec::new();
        each(archive, |entry, _| {
            names.push(name(&entry.path));
            Ok(())
        })
        .unwrap();
        names
    }

    fn debian() -> File {
        archive(&[
            ("boot", Kind::Directory),
            ("boot/vmlinuz-6.1", Kind::File(9000)),
            ("vmlinuz", Kind::Symlink(b"boot/vmlinuz-6.1".to_vec())),
            ("usr/lib/modules/6.1/vdso/vdso64.so", Kind::File(10)),
            ("usr/lib/libm.so.6", Kind::File(100)),
            ("usr/lib/libm.so", Kind::Symlink(b"libm.so.6".to_vec())),
            ("etc/ld.so.cache", Kind::File(5)),
            ("usr/bin/sofa", Kind::File(7)),
            ("usr/share/doc/x", Kind::File(3)),
            ("var/lib/apt/lists/partial", Kind::Directory),
            ("var/lib/apt/lists/big", Kind::File(1000)),
        ])
    }

    #[test]
    fn what_a_kit_boot_never_uses_is_left_out_and_counted() {
        let out = tempfile::tempfile().unwrap();
        let found = slim(&debian(), false, Some(&out)).unwrap();
        let left = names(&out);
        assert_eq!(
            left,
            [
                "boot",
                "usr/lib/libm.so.6",
                "usr/lib/libm.so",
                "etc/ld.so.cache",
                "usr/bin/sofa",
                "usr/share/doc/x",
                "var/lib/apt/lists/partial"
            ]
        );
        assert_eq!(found.dropped[0], ("kernels and boot loader", Amount { files: 2, bytes: 9000 }));
        assert_eq!(found.dropped[3], ("package caches", Amount { files: 1, bytes: 1000 }));
        assert_eq!(found.kept, Amount { files: 5, bytes: 115 });
        let with_documents = slim(&debian(), true, None).unwrap();
        assert_eq!(with_documents.dropped[4].1, Amount { files: 1, bytes: 3 });
    }

    #[test]
    fn the_libraries_of_the_result_are_those_of_the_original() {
        let out = tempfile::tempfile().unwrap();
        let before = slim(&debian(), true, Some(&out)).unwrap().libraries;
        let paths: Vec<&str> = before.keys().map(String::as_str).collect();
        assert_eq!(paths, ["etc/ld.so.cache", "usr/lib/libm.so", "usr/lib/libm.so.6"]);
        assert_eq!(slim(&out, true, None).unwrap().libraries, before);
        let other = archive(&[("usr/lib/libm.so.6", Kind::File(101))]);
        assert_ne!(slim(&other, false, None).unwrap().libraries["usr/lib/libm.so.6"], before["usr/lib/libm.so.6"]);
    }

    #[test]
    fn a_library_in_an_odd_place_is_no_rubbish() {
        let odd = archive(&[("usr/lib/firmware/libodd.so.1", Kind::File(1))]);
        let error = slim(&odd, false, None).unwrap_err().to_string();
        assert!(error.contains("libodd.so.1"), "{error}");
    }

    #[test]
    fn a_file_with_another_name_elsewhere_stays() {
        let linked = archive(&[
            ("boot/tool", Kind::File(4)),
            ("usr/bin/tool", Kind::HardLink(b"boot/tool".to_vec())),
            ("boot/other", Kind::File(4)),
        ]);
        let out = tempfile::tempfile().unwrap();
        slim(&linked, false, Some(&out)).unwrap();
        assert_eq!(names(&out), ["boot/tool", "usr/bin/tool"]);
    }
}

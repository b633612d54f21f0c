//! The host's time zone in the guest: what a program finds that has no `TZ`.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::error::{AgentError, Doing};
use super::traces::Traces;

/// Where the C library looks.
const LOCALTIME: &str = "etc/localtime";

/// The zone's name for other programs, where a system has such a file (Debian).
const TIMEZONE: &str = "etc/timezone";

/// A system's zones, by name.
const DATABASE: &str = "usr/share/zoneinfo";

/// The host's zone, if the image does not know it.
const COPY: &str = "run/spank-vm/localtime";

/// The most bytes of a zone without any change of its clocks.
const FIXED_MOST: usize = 256;

/// Makes the host's zone the guest's: by its name, if the image knows that, since programs read the name too; else by
/// its data. A guest that has it already is left alone.
pub(super) fn set(name: &[u8], data: &[u8], traces: &mut Traces) -> Result<(), AgentError> {
    set_below(Path::new("/"), name, data, traces)
}

fn set_below(root: &Path, name: &[u8], data: &[u8], traces: &mut Traces) -> Result<(), AgentError> {
    let localtime = root.join(LOCALTIME);
    let is_same = match fs::read(&localtime) {
        Ok(there) => there == data,
        // Without the file the zone is UTC.
        Err(_) => is_utc(data),
    };
    if is_same || !root.join("etc").is_dir() {
        return Ok(());
    }
    let target = match zone_of_image(root, name) {
        Some(target) => target,
        None => {
            let copy = root.join(COPY);
            let parent = copy.parent().unwrap_or(root);
            fs::create_dir_all(parent)
                .and_then(|()| fs::write(&copy, data))
                .doing(|| "write the time zone".to_owned())?;
            copy
        }
    };
    traces.link(&localtime, &target)?;
    let timezone = root.join(TIMEZONE);
    if !name.is_empty() && timezone.is_file() {
        traces.write(&timezone, &[name, b"\n"].concat()).doing(|| "write /etc/timezone".to_owned())?;
    }
    Ok(())
}

/// The image's own data of that zone. The name comes from a link of the host, so it must not lead elsewhere.
fn zone_of_image(root: &Path, name: &[u8]) -> Option<PathBuf> {
    let name = Path::new(std::str::from_utf8(name).ok().filter(|name| !name.is_empty())?);
    let is_plain = name.components().all(|part| matches!(part, Component::Normal(_)));
    let path = root.join(DATABASE).join(name);
    (is_plain && path.is_file()).then_some(path)
}

/// Whether these are the data of UTC: a file of a fixed zone whose last line says so.
fn is_utc(data: &[u8]) -> bool {
    data.len() < FIXED_MOST && [b"\nUTC0\n".as_slice(), b"\n<UTC>0\n"].iter().any(|end| data.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UTC: &[u8] = b"TZif2 and so on\nUTC0\n";
    const BERLIN: &[u8] = b"TZif2 and so on\nCET-1CEST,M3.5.0,M10.5.0/3\n";

    fn root(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("etc")).unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        root
    }

    fn zone_after(root: &tempfile::TempDir, name: &str, data: &[u8]) -> (Option<PathBuf>, Option<Vec<u8>>) {
        let mut traces = Traces::default();
        set_below(root.path(), name.as_bytes(), data, &mut traces).unwrap();
        traces.check_links().unwrap();
        let localtime = root.path().join(LOCALTIME);
        let target = fs::read_link(&localtime).ok();
        let target = target.map(|target| target.strip_prefix(root.path()).unwrap().to_owned());
        let seen = (target, fs::read(&localtime).ok());
        traces.take_back().unwrap();
        seen
    }

    #[test]
    fn the_image_s_own_zone_of_that_name_is_taken_and_its_data_otherwise() {
        let newer = b"another release of the data".as_slice();
        let both = root(&[("usr/share/zoneinfo/Europe/Berlin", newer), (LOCALTIME, UTC), (TIMEZONE, b"Etc/UTC\n")]);
        let expected = (Some("usr/share/zoneinfo/Europe/Berlin".into()), Some(newer.to_vec()));
        assert_eq!(zone_after(&both, "Europe/Berlin", BERLIN), expected);
        assert_eq!(fs::read(both.path().join(LOCALTIME)).unwrap(), UTC, "a saved image is as it was");
        assert_eq!(fs::read(both.path().join(TIMEZONE)).unwrap(), b"Etc/UTC\n");
        for (name, root) in
            [("Europe/Berlin", root(&[])), ("../../etc/passwd", root(&[(LOCALTIME, UTC)])), ("", root(&[]))]
        {
            assert_eq!(zone_after(&root, name, BERLIN), (Some(COPY.into()), Some(BERLIN.to_vec())), "{name}");
        }
    }

    #[test]
    fn a_guest_that_has_the_zone_is_left_alone() {
        assert_eq!(zone_after(&root(&[]), "Etc/UTC", UTC), (None, None));
        let root = root(&[(LOCALTIME, BERLIN)]);
        assert_eq!(zone_after(&root, "Europe/Berlin", BERLIN), (None, Some(BERLIN.to_vec())));
    }
}

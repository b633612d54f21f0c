//! Reads from the image's own `/etc/fstab` which partitions belong to the root.

/// A line that mounts something below the root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// What: `UUID=…`, `LABEL=…` or a device.
    pub source: String,
    /// Where, without the first slash.
    pub directory: String,
    /// A btrfs subvolume.
    pub subvolume: Option<String>,
}

/// File systems that hold no files of an installed system.
const NOT_OURS: [&str; 12] =
    ["swap", "proc", "sysfs", "tmpfs", "devpts", "vfat", "msdos", "iso9660", "udf", "nfs", "nfs4", "cifs"];

/// The lines for directories other than the root, outer ones first.
pub(super) fn parse(text: &str) -> Vec<Line> {
    let mut lines: Vec<Line> = text.lines().filter_map(line).collect();
    lines.sort_by(|a, b| a.directory.cmp(&b.directory));
    lines
}

fn line(text: &str) -> Option<Line> {
    let mut fields = text.split('#').next()?.split_ascii_whitespace();
    let (source, directory, kind) = (fields.next()?, fields.next()?, fields.next()?);
    let options: Vec<&str> = fields.next().unwrap_or_default().split(',').collect();
    let directory = directory.strip_prefix('/')?.trim_end_matches('/');
    let plain = !directory.is_empty() && directory.split('/').all(|part| !matches!(part, "" | "." | ".."));
    if !plain || NOT_OURS.contains(&kind) || options.iter().any(|option| matches!(*option, "noauto" | "bind")) {
        return None;
    }
    let subvolume = options.iter().find_map(|option| option.strip_prefix("subvol=")).map(str::to_owned);
    Some(Line { source: source.to_owned(), directory: directory.to_owned(), subvolume })
}

/// How a source names a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Source<'a> {
    Uuid(&'a str),
    Label(&'a str),
    /// By its number, whatever the name of the disk was.
    Number(u32),
    Unknown,
}

impl<'a> Source<'a> {
    pub fn parse(text: &'a str) -> Self {
        let unquoted = |text: &'a str| text.trim_matches('"');
        let after = |prefixes: [&str; 2]| prefixes.into_iter().find_map(|prefix| text.strip_prefix(prefix));
        if let Some(uuid) = after(["UUID=", "/dev/disk/by-uuid/"]) {
            return Self::Uuid(unquoted(uuid));
        }
        if let Some(label) = after(["LABEL=", "/dev/disk/by-label/"]) {
            return Self::Label(unquoted(label));
        }
        let number = || {
            let device = text.strip_prefix("/dev/").filter(|name| !name.contains('/'))?;
            let name = device.trim_end_matches(|c: char| c.is_ascii_digit());
            device[name.len()..].parse().ok()
        };
        number().map_or(Self::Unknown, Self::Number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_lines_that_belong_to_the_installed_files_are_kept() {
        let text = "\
# a comment
UUID=aa  /      ext4 errors=remount-ro 0 1
LABEL=\"var\" /var/  ext4 defaults 0 2 # theirs
/dev/sda5 /usr/local xfs defaults
/dev/sda6 /usr btrfs subvol=@usr,ro
/dev/sda2 none swap sw
/dev/sda1 /boot/efi vfat umask=0077
tmpfs /tmp tmpfs
/dev/sr0 /media auto noauto
/dev/sdb1 /../etc ext4
server:/home /home nfs
half
";
        let lines = parse(text);
        let shown: Vec<_> = lines.iter().map(|l| (l.source.as_str(), l.directory.as_str())).collect();
        assert_eq!(shown, [("/dev/sda6", "usr"), ("/dev/sda5", "usr/local"), ("LABEL=\"var\"", "var")]);
        assert_eq!(lines[0].subvolume.as_deref(), Some("@usr"));
    }

    #[test]
    fn a_partition_is_named_in_many_ways() {
        assert_eq!(Source::parse("UUID=1-2"), Source::Uuid("1-2"));
        assert_eq!(Source::parse("LABEL=\"var\""), Source::Label("var"));
        assert_eq!(Source::parse("/dev/disk/by-uuid/1-2"), Source::Uuid("1-2"));
        assert_eq!(Source::parse("/dev/nvme0n1p3"), Source::Number(3));
        assert_eq!(Source::parse("/dev/sda12"), Source::Number(12));
        assert_eq!(Source::parse("/dev/mapper/vg-root1"), Source::Unknown);
        assert_eq!(Source::parse("PARTUUID=1"), Source::Unknown);
    }
}

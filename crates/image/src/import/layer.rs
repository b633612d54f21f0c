//! A tar archive within a file: where it lies, how it is compressed, and a stream of it that can be opened again.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use anyhow::{Context, bail, ensure};

use super::progress::Progress;
use super::spool::Spool;
use crate::digest;
use archive::Skip;

/// Number of first bytes that show what a file is.
pub const START: usize = 0x8800;

/// Bytes read at once.
const BUFFER: usize = 128 * 1024;

/// A range of a file that several readers may share.
#[derive(Debug, Clone)]
pub struct Part {
    file: Arc<File>,
    /// Where it begins.
    pub offset: u64,
    /// Its length.
    pub len: u64,
}

impl Part {
    /// The whole file.
    ///
    /// # Errors
    /// When its size cannot be told.
    pub fn of_file(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self { file: Arc::new(file), offset: 0, len })
    }

    /// A range of this one; `None` if it does not lie inside.
    pub fn range(&self, offset: u64, len: u64) -> Option<Self> {
        (offset.checked_add(len)? <= self.len).then(|| Self {
            file: Arc::clone(&self.file),
            offset: self.offset + offset,
            len,
        })
    }

    /// The first bytes; fewer if the range is shorter.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn start(&self, bytes: usize) -> io::Result<Vec<u8>> {
        let mut start = Vec::new();
        self.reader(&Progress::none()).take(bytes as u64).read_to_end(&mut start)?;
        Ok(start)
    }

    /// Reads it from its beginning.
    pub fn reader(&self, progress: &Progress) -> PartReader {
        PartReader { part: self.clone(), position: 0, buffer: Vec::new(), used: 0, progress: progress.clone() }
    }

    /// The whole file that it lies in.
    pub fn file(&self) -> &File {
        &self.file
    }
}

/// Reads a part; what is skipped is not read.
#[derive(Debug)]
pub struct PartReader {
    part: Part,
    position: u64,
    buffer: Vec<u8>,
    used: usize,
    progress: Progress,
}

impl PartReader {
    fn fill(&mut self) -> io::Result<()> {
        let wanted = usize::try_from(self.part.len - self.position).unwrap_or(BUFFER).min(BUFFER);
        self.buffer.resize(wanted, 0);
        self.used = 0;
        let read = self.part.file.read_at(&mut self.buffer, self.part.offset + self.position);
        // Bytes that were not read must not look like data.
        self.buffer.truncate(*read.as_ref().unwrap_or(&0));
        let read = read?;
        self.position += read as u64;
        self.progress.add(read as u64);
        Ok(())
    }
}

impl Read for PartReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if self.used == self.buffer.len() {
            self.fill()?;
        }
        let read = (&self.buffer[self.used..]).read(buf)?;
        self.used += read;
        Ok(read)
    }
}

impl Skip for PartReader {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        let buffered = (self.buffer.len() - self.used) as u64;
        if bytes <= buffered {
            self.used += bytes as usize;
            return Ok(());
        }
        let beyond = bytes - buffered;
        if beyond > self.part.len - self.position {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.used = self.buffer.len();
        self.position += beyond;
        self.progress.add(beyond);
        Ok(())
    }
}

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    None,
    Gzip,
    Xz,
    Zstd,
    Bzip2,
}

impl Compression {
    /// Recognises it by the first bytes.
    pub fn detect(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            [b'B', b'Z', b'h', b'1'..=b'9', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }

    /// The program that unpacks it, and its Debian package. Separate programs are used because the data may come
    /// from strangers, and because they run beside us on another processor.
    fn program(self) -> (&'static str, &'static [&'static str], &'static str) {
        match self {
            Self::None => ("cat", &[], "coreutils"),
            Self::Gzip => ("gzip", &["-dc"], "gzip"),
            Self::Xz => ("xz", &["-dc", "--memlimit-decompress=1GiB"], "xz-utils"),
            Self::Zstd => ("zstd", &["-dcq"], "zstd"),
            Self::Bzip2 => ("bzip2", &["-dc"], "bzip2"),
        }
    }
}

/// An archive that can be read more than once.
#[derive(Debug, Clone)]
pub struct Layer {
    part: Part,
    compression: Compression,
    digest: Option<String>,
    name: String,
}

impl Layer {
    /// An archive that was found in a file.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn new(part: Part, name: String, digest: Option<String>) -> io::Result<Self> {
        let compression = Compression::detect(&part.start(8)?);
        Ok(Self { part, compression, digest, name })
    }

    /// A tar that we have written ourselves.
    ///
    /// # Errors
    /// When its size cannot be told.
    pub fn plain(file: File) -> io::Result<Self> {
        Ok(Self { part: Part::of_file(file)?, compression: Compression::None, digest: None, name: "layer".to_owned() })
    }

    /// What to call it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether it is a layer of a container image.
    pub fn is_of_container(&self) -> bool {
        self.digest.is_some()
    }

    /// Bytes in the file.
    pub fn bytes(&self) -> u64 {
        self.part.len
    }

    /// Compares the bytes with the digest that names them.
    ///
    /// # Errors
    /// When they differ.
    pub fn verify(&self) -> anyhow::Result<()> {
        let Some(expected) = self.digest.as_deref().filter(|digest| !digest.is_empty()) else { return Ok(()) };
        let found = digest::of_reader(&mut self.part.reader(&Progress::none()))?;
        ensure!(
            found == expected,
            "its bytes are not those that the manifest names (sha256:{expected}): copy the file again"
        );
        Ok(())
    }

    /// A stream of the tar.
    ///
    /// # Errors
    /// When the program that unpacks it is not installed.
    pub fn open(&self, progress: &Progress) -> anyhow::Result<Stream> {
        let input = self.part.reader(progress);
        match self.compression {
            Compression::None => Ok(Stream::Plain(input)),
            other => Unpacker::start(other, input).map(Stream::Unpacked),
        }
    }

    /// The tar as a part of a file that can be read at any offset; it is first unpacked into an unnamed file if
    /// necessary.
    ///
    /// # Errors
    /// When that file would have more than `limit` bytes or cannot be written.
    pub fn uncompressed(&self, dir: &Path, limit: u64) -> anyhow::Result<Part> {
        if self.compression == Compression::None {
            return Ok(self.part.clone());
        }
        let mut stream = self.open(&Progress::none())?;
        let spool = Spool::new(dir)?;
        let copied = io::copy(&mut (&mut stream).take(limit), &mut spool.file()?).context("unpacking the archive")?;
        ensure!(copied < limit, "the archive takes more than {} MiB; --max-size allows more", limit >> 20);
        stream.finish(0)?;
        Ok(Part::of_file(spool.file()?)?)
    }
}

/// A tar as it is read.
#[derive(Debug)]
pub enum Stream {
    /// From the file.
    Plain(PartReader),
    /// From a program that unpacks it.
    Unpacked(Unpacker),
}

impl Stream {
    /// Reads on behind the archive's end, at most `limit` bytes: only there can we see whether everything was whole.
    ///
    /// # Errors
    /// It was not whole.
    pub fn finish(self, limit: u64) -> anyhow::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Unpacked(unpacker) => unpacker.finish(limit),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(part) => part.read(buf),
            Self::Unpacked(unpacker) => unpacker.output.read(buf),
        }
    }
}

impl Skip for Stream {
    fn skip(&mut self, bytes: u64) -> io::Result<()> {
        match self {
            Self::Plain(part) => part.skip(bytes),
            Self::Unpacked(unpacker) => Skip::skip(&mut Through(&mut unpacker.output), bytes),
        }
    }
}

/// A stream that can only skip bytes by reading them.
struct Through<'a, R>(&'a mut R);

impl<R: Read> Read for Through<'_, R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl<R: Read> Skip for Through<'_, R> {}

/// A program that unpacks, and a thread that feeds it.
#[derive(Debug)]
pub struct Unpacker {
    program: &'static str,
    child: Child,
    output: BufReader<ChildStdout>,
    feeder: Option<JoinHandle<()>>,
}

impl Unpacker {
    fn start(compression: Compression, mut input: PartReader) -> anyhow::Result<Self> {
        let (program, arguments, package) = compression.program();
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{program} cannot be started: install {package}"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (mut stdin, stdout) = (stdin.context("no pipe")?, stdout.context("no pipe")?);
        // The thread ends with the input, or when the program ends.
        let feeder = std::thread::spawn(move || drop(io::copy(&mut input, &mut stdin)));
        Ok(Self { program, child, output: BufReader::with_capacity(BUFFER, stdout), feeder: Some(feeder) })
    }

    fn finish(mut self, limit: u64) -> anyhow::Result<()> {
        let behind = io::copy(&mut (&mut self.output).take(limit.saturating_add(1)), &mut io::sink())?;
        ensure!(behind <= limit, "the archive goes on for more than {} MiB behind its end", limit >> 20);
        let status = self.child.wait()?;
        if !status.success() {
            let mut said = String::new();
            if let Some(mut stderr) = self.child.stderr.take() {
                let _ = stderr.by_ref().take(4096).read_to_string(&mut said);
            }
            bail!("the archive is damaged: {}", said.lines().last().unwrap_or(self.program).trim());
        }
        Ok(())
    }
}

impl Drop for Unpacker {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(feeder) = self.feeder.take() {
            let _ = feeder.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(bytes: &[u8]) -> Part {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(bytes, 0).unwrap();
        Part::of_file(file).unwrap()
    }

    #[test]
    fn a_part_is_read_and_skipped_within_its_bounds() {
        let bytes: Vec<u8> = (0..400_000_u32).map(|n| n as u8).collect();
        let part = part(&bytes).range(1000, 300_000).unwrap();
        let mut reader = part.reader(&Progress::none());
        let mut byte = [0];
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], bytes[1000]);
        reader.skip(200_000).unwrap();
        reader.read_exact(&mut byte).unwrap();
        assert_eq!(byte[0], bytes[201_001]);
        let mut rest = Vec::new();
        assert_eq!(reader.read_to_end(&mut rest).unwrap(), 300_000 - 200_002);
        assert!(reader.skip(1).is_err());
        assert!(part.range(299_999, 2).is_none() && part.range(u64::MAX, 2).is_none());
    }

    #[test]
    fn every_compression_is_recognised_and_undone_and_a_damaged_one_is_an_error() {
        let text = b"some text ".repeat(20_000);
        for (program, kind) in [
            ("gzip", Compression::Gzip),
            ("xz", Compression::Xz),
            ("zstd", Compression::Zstd),
            ("bzip2", Compression::Bzip2),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let plain = dir.path().join("plain");
            std::fs::write(&plain, &text).unwrap();
            let packed = Command::new(program).arg("-c").arg(&plain).output().unwrap().stdout;
            assert_eq!(Compression::detect(&packed), kind);
            let layer = Layer::new(part(&packed), String::new(), None).unwrap();
            let mut stream = layer.open(&Progress::none()).unwrap();
            let mut found = Vec::new();
            stream.read_to_end(&mut found).unwrap();
            assert!(found == text, "{program}");
            stream.finish(0).unwrap();
            let cut = Layer::new(part(&packed[..packed.len() - 3]), String::new(), None).unwrap();
            let mut stream = cut.open(&Progress::none()).unwrap();
            let _ = io::copy(&mut stream, &mut io::sink());
            let error = stream.finish(0).unwrap_err().to_string();
            assert!(error.starts_with("the archive is damaged: "), "{error}");
        }
    }

    #[test]
    fn what_lies_behind_an_archive_is_bounded() {
        let bomb = Command::new("sh").args(["-c", "head -c 100000000 /dev/zero | gzip"]).output().unwrap().stdout;
        let layer = Layer::new(part(&bomb), String::new(), None).unwrap();
        let error = layer.open(&Progress::none()).unwrap().finish(1 << 20).unwrap_err().to_string();
        assert!(error.contains("more than 1 MiB behind its end"), "{error}");
        let dir = tempfile::tempdir().unwrap();
        let error = layer.uncompressed(dir.path(), 1 << 20).unwrap_err().to_string();
        assert!(error.contains("more than 1 MiB"), "{error}");
    }
}

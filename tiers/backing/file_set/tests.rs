use super::*;

fn set_file(path: PathBuf, bytes: u64) -> SetFile {
    SetFile { path: Some(path), bytes }
}

fn options() -> FileSetOptions {
    FileSetOptions { create: true, ..FileSetOptions::new("set") }
}

fn read(set: &FileSet, offset: u64, bytes: usize) -> Result<Vec<u8>> {
    let mut buffer = vec![0xcc; bytes];
    set.read(offset, &mut [IoSliceMut::new(&mut buffer)])?;
    Ok(buffer)
}

/// `bytes` random bytes and where they are cut into buffers.
fn random_buffers(random: &mut fastrand::Rng, bytes: usize) -> (Vec<u8>, Vec<usize>) {
    let data = std::iter::repeat_with(|| random.u8(..)).take(bytes).collect();
    let mut lengths = Vec::new();
    let mut left = bytes;
    while left > 0 {
        let length = random.usize(..=left.min(5000));
        lengths.push(length);
        left -= length;
    }
    (data, lengths)
}

#[test]
fn a_set_of_files_reads_and_writes_as_one_flat_array() {
    for _ in 0..4 {
        let seed = fastrand::u64(..);
        let mut random = fastrand::Rng::with_seed(seed);
        let folder = tempfile::tempdir().expect("a folder can be made");
        let sizes = [0, 1, 511, 4096, 16 << 10, 40_000];
        let files: Vec<SetFile> = (0..random.u32(1..30))
            .map(|number| {
                let path = folder.path().join(format!("{}/{number}", number % 3));
                let bytes =
                    if random.bool() { random.u64(..20_000) } else { sizes[random.usize(..sizes.len())] };
                SetFile { path: (random.u8(..5) > 0).then_some(path), bytes }
            })
            .collect();
        let handles = HandlePool::new(random.usize(1..6));
        let options = FileSetOptions { absent_reads_zeros: true, direct: random.bool(), ..options() };
        let mut set = FileSet::new(files.clone(), options.clone(), &handles).expect("it fits");
        let mut twin = vec![0u8; set.len_bytes() as usize];
        let is_pad: Vec<bool> =
            files.iter().flat_map(|file| vec![file.path.is_none(); file.bytes as usize]).collect();
        for step in 0..200 {
            let offset = random.usize(..=twin.len());
            let bytes = random.usize(..=(twin.len() - offset).min(60_000));
            match random.u8(..10) {
                0..4 => {
                    let (data, lengths) = random_buffers(&mut random, bytes);
                    let mut rest = &data[..];
                    let buffers: Vec<IoSlice<'_>> = lengths
                        .iter()
                        .map(|&length| IoSlice::new(rest.split_off(..length).expect("it is")))
                        .collect();
                    set.write(offset as u64, &buffers).expect("the files can be written");
                    for (index, byte) in data.iter().enumerate().filter(|(index, _)| !is_pad[offset + index])
                    {
                        twin[offset + index] = *byte;
                    }
                }
                4..8 => {
                    let (mut data, lengths) = random_buffers(&mut random, bytes);
                    let mut rest = &mut data[..];
                    let mut buffers: Vec<IoSliceMut<'_>> = lengths
                        .iter()
                        .map(|&length| IoSliceMut::new(rest.split_off_mut(..length).expect("it is")))
                        .collect();
                    set.read(offset as u64, &mut buffers).expect("the files can be read");
                    assert_eq!(data, twin[offset..offset + bytes], "seed {seed}, step {step}");
                }
                8 => {
                    set.discard(offset as u64, bytes as u64).expect("holes can be made");
                    twin[offset..offset + bytes].fill(0);
                }
                _ if random.bool() => set.sync().expect("the files can be synced"),
                _ => {
                    drop(set);
                    set = FileSet::new(files.clone(), options.clone(), &handles).expect("it fits");
                }
            }
        }
        assert_eq!(read(&set, 0, twin.len()).expect("the files can be read"), twin, "seed {seed}");
        for file in files.iter().filter(|file| file.bytes > 0) {
            let found = file.path.as_ref().and_then(|path| fs::metadata(path).ok());
            assert!(found.is_none_or(|found| found.len() == file.bytes), "seed {seed}: {file:?}");
        }
    }
}

#[test]
fn no_more_files_are_open_than_the_pool_keeps_and_none_are_after_the_sets() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let handles = HandlePool::new(3);
    let sets: Vec<FileSet> = (0..4)
        .map(|set| {
            let files =
                (0..20).map(|file| set_file(folder.path().join(format!("{set}/{file}")), 100)).collect();
            FileSet::new(files, options(), &handles).expect("it fits")
        })
        .collect();
    assert_eq!(handles.open_count(), 0);
    std::thread::scope(|scope| {
        for set in &sets {
            scope.spawn(|| {
                for round in 0..100 {
                    let offset = round * 37 % 1900;
                    set.write(offset, &[IoSlice::new(&[round as u8; 100])])
                        .expect("the files can be written");
                    assert_eq!(read(set, offset, 100).expect("the files can be read"), [round as u8; 100]);
                }
                set.sync().expect("the files can be synced");
            });
        }
    });
    assert!(handles.open_count() <= 3, "{}", handles.open_count());
    drop(sets);
    assert_eq!(handles.open_count(), 0);
}

#[test]
fn an_absent_file_is_an_error_that_names_it_or_zeros_as_asked() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let handles = HandlePool::new(8);
    fs::write(folder.path().join("short"), [1; 10]).expect("a file can be written");
    let files = vec![set_file(folder.path().join("short"), 100), set_file(folder.path().join("absent"), 100)];
    let strict = FileSet::new(files.clone(), FileSetOptions::new("set"), &handles).expect("it fits");
    assert_eq!(read(&strict, 0, 10).expect("it is there"), [1; 10]);
    let short = read(&strict, 0, 11).expect_err("the file ends before");
    assert!(short.to_string().contains("short"), "{short}");
    let absent = read(&strict, 50, 100).expect_err("a file is absent");
    assert!(absent.to_string().contains("short") || absent.to_string().contains("absent"), "{absent}");
    assert!(strict.write(150, &[IoSlice::new(&[1])]).is_err(), "nothing is made unasked");
    let zeros = FileSetOptions { absent_reads_zeros: true, ..FileSetOptions::new("set") };
    let zeros = FileSet::new(files, zeros, &handles).expect("it fits");
    assert_eq!(read(&zeros, 0, 200).expect("what is absent is zeros"), [&[1; 10][..], &[0; 190]].concat());
}

#[test]
fn files_of_no_bytes_and_folders_are_made_by_the_first_write_and_not_by_a_read() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let handles = HandlePool::new(8);
    let (empty, full) = (folder.path().join("a/b/empty"), folder.path().join("c/full"));
    let files =
        vec![set_file(empty.clone(), 0), set_file(full.clone(), 5000), set_file(folder.path().join("d"), 10)];
    let set = FileSet::new(files, options(), &handles).expect("it fits");
    assert!(read(&set, 0, 1).is_err());
    assert!(!folder.path().join("a").exists() && !folder.path().join("c").exists());
    set.write(4000, &[IoSlice::new(&[1; 10])]).expect("the files can be made");
    set.sync().expect("the files can be synced");
    assert_eq!(fs::metadata(empty).expect("it is made").len(), 0);
    assert_eq!(fs::metadata(full).expect("it is made").len(), 5000);
    assert!(!folder.path().join("d").exists(), "nobody wrote to it");
}

#[test]
fn the_identity_changes_with_any_file() {
    let folder = tempfile::tempdir().expect("a folder can be made");
    let handles = HandlePool::new(8);
    let files = ["a", "b"].map(|name| set_file(folder.path().join(name), 10)).to_vec();
    let set = FileSet::new(files, options(), &handles).expect("it fits");
    set.write(0, &[IoSlice::new(&[1; 10])]).expect("the files can be written");
    let one = set.identity();
    assert_eq!(set.identity(), one);
    set.write(10, &[IoSlice::new(&[1; 10])]).expect("the files can be written");
    assert_ne!(set.identity(), one, "a file came");
    let two = set.identity();
    let file = File::open(folder.path().join("b")).expect("it is there");
    file.set_modified(std::time::SystemTime::UNIX_EPOCH).expect("its time can be set");
    assert_ne!(set.identity(), two, "a file changed");
}

#[test]
fn sizes_that_overflow_are_refused() {
    let files = vec![SetFile { path: None, bytes: u64::MAX }, SetFile { path: None, bytes: 1 }];
    assert!(FileSet::new(files, options(), &HandlePool::new(1)).is_err());
    let huge = vec![SetFile { path: None, bytes: 8 << 40 }];
    let pads = FileSet::new(huge, options(), &HandlePool::new(1)).expect("it fits");
    assert_eq!(read(&pads, (8 << 40) - 5, 5).expect("pads are zeros"), [0; 5]);
    assert!(read(&pads, (8 << 40) - 5, 6).is_err());
}

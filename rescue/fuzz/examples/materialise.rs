//! Writes the volume that an input of a fuzz target stands for: `materialise TARGET INPUT VOLUME`.

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [target, input, volume] = args.as_slice() else {
        eprintln!("usage: materialise TARGET INPUT VOLUME");
        std::process::exit(2);
    };
    let data = std::fs::read(input).unwrap_or_else(|e| panic!("{input}: {e}"));
    let made = rescue_fuzz::volume(target, &data).unwrap_or_else(|| panic!("{input} is empty"));
    made.write(std::path::Path::new(volume));
}

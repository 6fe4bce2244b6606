//! Looking at disks and stores without changing them.

use std::path::Path;

use super::{
    Cancel,
    analysis::{analyse, read_layout},
    error::{self, chain},
    view::{DiskView, ImageView, RegionView, StoreView},
};
use crate::{
    block::{
        DiskRef, Identity, Window,
        discovery::{self, DiskClass, DiskInfo},
        open,
    },
    extent::ExtentSet,
    fs,
    store::{Listed, Store, Summary},
    table::{Layout, RegionKind},
    units::SectorSize,
};

/// Lists the disks of the machine with their tables and file systems. `used` of regions is left out: it takes long.
///
/// # Errors
/// [`error::Error::Failed`] when sysfs cannot be read. A disk that cannot be read is listed with its error.
pub fn disks() -> Result<Vec<DiskView>, error::Error> {
    let found = discovery::disks()?;
    Ok(found.into_iter().filter(|disk| disk.class == DiskClass::Disk).map(glance).collect())
}

/// Looks at a disk's table and names what its regions hold.
fn glance(info: DiskInfo) -> DiskView {
    let named = DiskRef::Path(info.identity.path.clone());
    let mut view = DiskView {
        rotational: info.rotational,
        removable: info.removable,
        read_only: info.read_only,
        in_use: info.in_use,
        ..blank(info.identity)
    };
    let disk = match open::open_look(&named, None) {
        Ok(disk) => disk,
        Err(error) => {
            view.error = Some(chain(&error));
            return view;
        }
    };
    match read_layout(disk.as_ref()) {
        Ok((layout, error)) => {
            let regions = layout.regions().into_iter().map(|region| {
                let holds_data = matches!(region.kind, RegionKind::Partition(_) | RegionKind::Whole);
                let window = Window::new(disk.as_ref(), region.range);
                RegionView {
                    partition: partition_of(&layout, region.kind),
                    detected: holds_data.then(|| fs::detect(&window)).flatten(),
                    ..RegionView::new(region.kind, region.range)
                }
            });
            view.regions = regions.collect();
            tell_table(&mut view, &layout, error);
        }
        Err(error) => view.error = Some(error.to_string()),
    }
    view
}

fn partition_of(layout: &Layout, kind: RegionKind) -> Option<crate::table::Partition> {
    let RegionKind::Partition(number) = kind else { return None };
    layout.partitions.iter().find(|partition| partition.number == number).cloned()
}

fn blank(identity: Identity) -> DiskView {
    DiskView {
        identity,
        rotational: false,
        removable: false,
        read_only: false,
        in_use: Vec::new(),
        table: None,
        disk_id: None,
        regions: Vec::new(),
        problems: Vec::new(),
        error: None,
    }
}

fn tell_table(view: &mut DiskView, layout: &Layout, error: Option<String>) {
    view.table = error.is_none().then_some(layout.kind);
    view.disk_id.clone_from(&layout.disk_id);
    view.problems.clone_from(&layout.problems);
    view.error = error;
}

/// A disk, and the allocation map of each of its regions.
#[derive(Clone, Debug)]
pub struct Mapped {
    /// The disk.
    pub view: DiskView,
    /// For each of the view's regions the bytes an image keeps, counted from the region's start.
    pub kept: Vec<ExtentSet>,
}

/// Looks at one disk, allocation maps included.
///
/// # Errors
/// [`error::Error`] when it cannot be opened.
pub fn disk(disk: &DiskRef, sector_size: Option<SectorSize>, options: &fs::Options) -> Result<Mapped, error::Error> {
    let open = open::open_look(disk, sector_size)?;
    let known = discovery::disks().unwrap_or_default();
    let known = known.into_iter().find(|info| info.identity.path == open.identity().path);
    let mut view = blank(open.identity().clone());
    if let Some(info) = known {
        view.rotational = info.rotational;
        view.removable = info.removable;
        view.read_only = info.read_only;
        view.in_use = info.in_use;
    }
    let analysis = analyse(open.as_ref(), options, &Cancel::new())?;
    let regions = analysis.regions.into_iter().map(|region| {
        let view = RegionView {
            kind: region.region.kind,
            range: region.region.range,
            partition: region.partition,
            detected: region.survey.detected,
            used: Some(region.survey.allocated.total()),
            usage: region.survey.usage,
            left_out: region.survey.left_out,
            inside: region.survey.inside,
            widened: region.survey.widened,
            notes: region.survey.notes,
        };
        (view, region.survey.allocated)
    });
    let (regions, kept) = regions.unzip();
    view.regions = regions;
    tell_table(&mut view, &analysis.layout, analysis.table_error);
    Ok(Mapped { view, kept })
}

/// Lists the images of a store, newest first.
///
/// # Errors
/// [`error::Error`] when there is no store, or it is of a kind this program cannot read.
pub fn images(store: &Path) -> Result<StoreView, error::Error> {
    let store = Store::open(store).map_err(|error| error::Error::failed("opening the store", &error))?;
    let listed = store.images().map_err(|error| error::Error::failed("listing the images", &error))?;
    let mut images = Vec::new();
    let mut problems: Vec<String> = store.problems().iter().map(ToString::to_string).collect();
    for entry in listed {
        match entry {
            Listed::Image(image) => images.push(image_view(&image)),
            Listed::Damaged { file, error } => problems.push(format!("{file}: {error}")),
        }
    }
    Ok(StoreView { images, problems })
}

fn image_view(image: &Summary) -> ImageView {
    let labels = image.regions.iter().filter_map(|region| region.detected.as_ref()?.label.clone());
    let labels: Vec<String> = labels.filter(|label| !label.is_empty()).collect();
    ImageView {
        id: image.id.clone(),
        created: image.created.clone(),
        state: image.state,
        machine: image.machine.clone(),
        disk: disk_name(&image.disk),
        identity: image.disk.clone(),
        label: image.note.clone().unwrap_or_else(|| labels.join(", ")),
        bytes: image.disk.len,
        allocated: image.regions.iter().map(|region| region.allocated.total()).sum(),
        stored: image.stored_bytes,
        needs: image.disk.len,
    }
}

/// Calls a disk by model and serial number, or by its path where it has neither.
fn disk_name(disk: &Identity) -> String {
    let said = [disk.model.as_deref(), disk.serial.as_deref()];
    let said: Vec<&str> = said.into_iter().flatten().map(str::trim).filter(|text| !text.is_empty()).collect();
    if said.is_empty() { disk.path.clone() } else { said.join(" ") }
}

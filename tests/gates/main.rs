//! What every expanded WGSL source must pass before it meets a driver: naga with exactly the
//! capabilities of its tier, naga's writers for Metal, D3D12 and Vulkan, tint (the compiler of
//! Chromium, the only one that checks barriers for uniformity), and lints of our own.

mod lint;
mod sources;
mod tint;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, Module, back};
use sources::Source;

/// Fails with the first few of `failures`, and how many there are.
fn assert_none(failures: &[String], of: usize) {
    let first = failures.iter().take(5).cloned().collect::<Vec<_>>().join("\n\n");
    assert!(failures.is_empty(), "{} of {of} sources fail; the first:\n\n{first}", failures.len());
}

fn validate(text: &str, capabilities: Capabilities) -> Result<(Module, ModuleInfo), String> {
    let module = naga::front::wgsl::parse_str(text).map_err(|e| e.emit_to_string(text))?;
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    let info = validator.validate(&module).map_err(|e| e.emit_to_string(text))?;
    Ok((module, info))
}

/// Writes the module in the language of every native API.
fn translate(module: &Module, info: &ModuleInfo) -> Result<(), String> {
    back::spv::write_vec(module, info, &back::spv::Options::default(), None)
        .map_err(|e| format!("SPIR-V: {e}"))?;
    let metal = back::msl::Options { lang_version: (3, 0), ..Default::default() };
    back::msl::write_string(module, info, &metal, &back::msl::PipelineOptions::default())
        .map_err(|e| format!("MSL: {e}"))?;
    let options =
        back::hlsl::Options { shader_model: back::hlsl::ShaderModel::V6_0, ..Default::default() };
    let pipeline = back::hlsl::PipelineOptions::default();
    let mut text = String::new();
    back::hlsl::Writer::new(&mut text, &options, &pipeline)
        .write(module, info, None)
        .map_err(|e| format!("HLSL: {e}"))?;
    Ok(())
}

/// Workgroup memory as WebGPU counts it: every variable rounded up to 16 bytes.
fn workgroup_bytes(module: &Module) -> u32 {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).expect("the module is valid");
    let in_workgroup = |(_, v): &(_, &naga::GlobalVariable)| v.space == AddressSpace::WorkGroup;
    let bytes = |(_, v): (_, &naga::GlobalVariable)| layouter[v.ty].size.next_multiple_of(16);
    module.global_variables.iter().filter(in_workgroup).map(bytes).sum()
}

fn check(source: &Source) -> Result<(), String> {
    // Packing and unpacking f16 is part of every WebGPU device; the type is not.
    let mut capabilities = Capabilities::SHADER_FLOAT16_IN_FLOAT32;
    capabilities.set(Capabilities::SHADER_FLOAT16, source.caps.f16);
    capabilities.set(Capabilities::SUBGROUP, source.caps.subgroup_size.is_some());
    let (module, info) = validate(&source.text, capabilities)?;
    translate(&module, &info)?;

    let bytes = workgroup_bytes(&module);
    if bytes != source.workgroup_bytes {
        return Err(format!("{bytes} bytes of workgroup memory, not {}", source.workgroup_bytes));
    }
    if bytes > source.caps.max_workgroup_storage {
        return Err(format!("{bytes} bytes of workgroup memory are more than the device has"));
    }
    let in_storage = |v: &naga::GlobalVariable| matches!(v.space, AddressSpace::Storage { .. });
    let storage = module.global_variables.iter().filter(|(_, v)| in_storage(v)).count();
    if storage > source.caps.max_storage_buffers as usize {
        return Err(format!("{storage} storage buffers are more than the device binds"));
    }
    let mut bindings: Vec<u32> = module
        .global_variables
        .iter()
        .filter_map(|(_, v)| v.binding.as_ref().map(|b| b.binding))
        .collect();
    bindings.sort_unstable();
    if bindings != (0..source.bindings as u32).collect::<Vec<_>>() {
        return Err(format!("bindings {bindings:?}, but the host binds {}", source.bindings));
    }
    Ok(())
}

#[test]
fn naga_takes_every_source_and_measures_what_the_host_measures() {
    let sources = sources::all();
    println!("{} sources", sources.len());
    let failure = |s: &Source| check(s).err().map(|why| format!("{}\n{why}", s.label));
    assert_none(&sources.iter().filter_map(failure).collect::<Vec<_>>(), sources.len());
}

#[test]
fn tint_takes_every_source() {
    let Some(tint) = tint::find() else { return };
    let sources = sources::all();
    println!("{} sources by {tint:?}", sources.len());
    let texts: Vec<&str> = sources.iter().map(|s| s.text.as_str()).collect();
    let failures: Vec<String> = tint::reject(&tint, &texts)
        .into_iter()
        .map(|(n, why)| format!("{}\n{why}", sources[n].label))
        .collect();
    assert_none(&failures, sources.len());
}

#[test]
fn no_source_has_what_the_lints_forbid() {
    let sources = sources::all();
    let failures: Vec<String> = sources
        .iter()
        .flat_map(|s| lint::lint(&s.text).into_iter().map(|why| format!("{}: {why}", s.label)))
        .collect();
    assert_none(&failures, sources.len());
}

#[test]
fn the_gates_do_reject() {
    let half = "enable f16; @compute @workgroup_size(1) fn main() { let x = 1.0h; }";
    assert!(validate(half, Capabilities::empty()).is_err());
    assert!(validate(half, Capabilities::SHADER_FLOAT16).is_ok());

    let divergent = "@compute @workgroup_size(64)
        fn main(@builtin(local_invocation_index) lane: u32) {
            if (lane < 3u) { return; }
            workgroupBarrier();
        }";
    if let Some(tint) = tint::find() {
        let uniform = divergent.replace("lane < 3u", "false");
        let rejected = tint::reject(&tint, &[divergent, &uniform]);
        assert_eq!(rejected.iter().map(|(n, _)| *n).collect::<Vec<_>>(), [0], "{rejected:?}");
    }
}

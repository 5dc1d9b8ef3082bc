//! LiteRT's C interface, as much of it as an engine needs: all of the unsafe code is here.
//!
//! The library is C++ behind C functions. They are looked up by name, their declarations follow
//! the headers of release 2.3 (`litert/c/*.h` of the project), and a library that lacks one of them
//! is refused. What they answer is owned by a [`Loaded`] and freed with it, in the order that the
//! headers ask for: buffers, the compiled model, the model, the environment, and last its bytes.

use std::{
    collections::BTreeSet,
    ffi::{CStr, CString, c_char, c_int, c_void},
    mem::ManuallyDrop,
    path::Path,
    ptr,
    sync::Arc,
};

use bytes::Bytes;
use libloading::Library;

/// Most axes of a tensor (`LITERT_TENSOR_MAX_RANK`).
const MAX_RANK: usize = 8;

/// Alignment of a model's bytes: that of the buffers in a file of the format.
const ALIGNMENT: usize = 16;

/// `kLiteRtHwAcceleratorCpu`.
const PROCESSOR: c_int = 1;

/// `kLiteRtEnvOptionTagAutoRegisterAccelerators`: which accelerators are looked for.
const ACCELERATORS_TAG: c_int = 24;

/// `kLiteRtEnvOptionTagMinLoggerSeverity`: from which severity on the library prints.
const SEVERITY_TAG: c_int = 25;

/// `kLiteRtAnyTypeInt`.
const INTEGER: c_int = 2;

/// `kLiteRtLogSeverityError`: what fails, and nothing else.
const ERRORS: i64 = 3;

/// Under this name the options of the CPU accelerator are found.
const CPU_OPTIONS: &CStr = c"xnnpack";

/// An object of the library; whose, says the function that takes it.
type Handle = *mut c_void;

/// `LiteRtStatus`.
type Status = c_int;

/// `LiteRtLayout`: rank in seven bits, then whether strides follow.
#[repr(C)]
#[derive(Clone, Copy)]
struct Layout {
    rank: u8,
    dimensions: [i32; MAX_RANK],
    strides: [u32; MAX_RANK],
}

/// `LiteRtRankedTensorType`.
#[repr(C)]
#[derive(Clone, Copy)]
struct TensorType {
    element: c_int,
    layout: Layout,
}

// The headers state these sizes for machines of 64 bits; no field depends on the width of a pointer.
const _: () = assert!(size_of::<Layout>() == 68 && size_of::<TensorType>() == 72);

/// `LiteRtAny` with an integer.
#[repr(C)]
struct Any {
    kind: c_int,
    value: i64,
}

/// `LiteRtEnvOption`.
#[repr(C)]
struct EnvironmentOption {
    tag: c_int,
    value: Any,
}

/// Declares the functions once: a field of the table for each, found by its name.
macro_rules! functions {
    ($($field:ident = $name:literal: fn($($argument:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of a library, which stays loaded for good: see [`Api::open`].
        pub(super) struct Api {
            $($field: unsafe extern "C" fn($($argument),*) $(-> $result)?,)*
        }

        impl Api {
            /// Looks every function up; the error names the first that is missing.
            fn of(library: &Library) -> Result<Self, String> {
                $(
                    // SAFETY: a library that exports this name is LiteRT, whose header declares the
                    // function so; the pointer stays good because the library is never unloaded.
                    #[allow(unsafe_code)]
                    let $field = *unsafe {
                        library.get::<unsafe extern "C" fn($($argument),*) $(-> $result)?>($name)
                    }
                    .map_err(|_| missing($name))?;
                )*
                Ok(Self { $($field,)* })
            }
        }
    };
}

functions! {
    create_environment = b"LiteRtCreateEnvironment\0":
        fn(c_int, *const EnvironmentOption, *mut Handle) -> Status;
    destroy_environment = b"LiteRtDestroyEnvironment\0": fn(Handle);
    create_model = b"LiteRtCreateModelFromBuffer\0":
        fn(Handle, *const c_void, usize, *mut Handle) -> Status;
    destroy_model = b"LiteRtDestroyModel\0": fn(Handle);
    count_signatures = b"LiteRtGetNumModelSignatures\0": fn(Handle, *mut usize) -> Status;
    signature = b"LiteRtGetModelSignature\0": fn(Handle, usize, *mut Handle) -> Status;
    count_inputs = b"LiteRtGetNumSignatureInputs\0": fn(Handle, *mut usize) -> Status;
    count_outputs = b"LiteRtGetNumSignatureOutputs\0": fn(Handle, *mut usize) -> Status;
    input = b"LiteRtGetSignatureInputTensorByIndex\0": fn(Handle, usize, *mut Handle) -> Status;
    output = b"LiteRtGetSignatureOutputTensorByIndex\0": fn(Handle, usize, *mut Handle) -> Status;
    tensor_index = b"LiteRtGetTensorIndex\0": fn(Handle, *mut u32) -> Status;
    tensor_type = b"LiteRtGetRankedTensorType\0": fn(Handle, *mut TensorType) -> Status;
    create_options = b"LiteRtCreateOptions\0": fn(*mut Handle) -> Status;
    destroy_options = b"LiteRtDestroyOptions\0": fn(Handle);
    set_accelerators = b"LiteRtSetOptionsHardwareAccelerators\0": fn(Handle, c_int) -> Status;
    create_opaque = b"LiteRtCreateOpaqueOptions\0":
        fn(*const c_char, *mut c_void, unsafe extern "C" fn(*mut c_void), *mut Handle) -> Status;
    destroy_opaque = b"LiteRtDestroyOpaqueOptions\0": fn(Handle);
    add_opaque = b"LiteRtAddOpaqueOptions\0": fn(Handle, Handle) -> Status;
    compile = b"LiteRtCreateCompiledModel\0":
        fn(Handle, Handle, Handle, *mut Handle) -> Status;
    destroy_compiled = b"LiteRtDestroyCompiledModel\0": fn(Handle);
    input_layout = b"LiteRtGetCompiledModelInputTensorLayout\0":
        fn(Handle, usize, usize, *mut Layout) -> Status;
    output_layouts = b"LiteRtGetCompiledModelOutputTensorLayouts\0":
        fn(Handle, usize, usize, *mut Layout, bool) -> Status;
    input_requirements = b"LiteRtGetCompiledModelInputBufferRequirements\0":
        fn(Handle, usize, usize, *mut Handle) -> Status;
    output_requirements = b"LiteRtGetCompiledModelOutputBufferRequirements\0":
        fn(Handle, usize, usize, *mut Handle) -> Status;
    create_buffer = b"LiteRtCreateManagedTensorBufferFromRequirements\0":
        fn(Handle, *const TensorType, Handle, *mut Handle) -> Status;
    destroy_buffer = b"LiteRtDestroyTensorBuffer\0": fn(Handle);
    packed_size = b"LiteRtGetTensorBufferPackedSize\0": fn(Handle, *mut usize) -> Status;
    lock = b"LiteRtLockTensorBuffer\0": fn(Handle, *mut *mut c_void, c_int) -> Status;
    unlock = b"LiteRtUnlockTensorBuffer\0": fn(Handle) -> Status;
    run = b"LiteRtRunCompiledModel\0":
        fn(Handle, usize, usize, *mut Handle, usize, *mut Handle) -> Status;
}

/// A symbol that release 2.2 brought. The functions of older releases have the same names and
/// other arguments, so they must not be called.
const SINCE_2_2: &[u8] = b"kLiteRtRuntimeBuiltin\0";

fn missing(name: &[u8]) -> String {
    let name = String::from_utf8_lossy(name.strip_suffix(b"\0").unwrap_or(name)).into_owned();
    format!("it has no `{name}`")
}

impl Api {
    /// Opens a library and looks its functions up, or says in words why it cannot be used. It is
    /// never closed: it leaves behind what runs its code when the process ends.
    pub(super) fn open(path: &Path) -> Result<Self, String> {
        // SAFETY: opening a library runs its initialisers. The file is one that the user named or
        // installed as LiteRT.
        #[allow(unsafe_code)]
        let library =
            unsafe { Library::new(path) }.map_err(|e| format!("it cannot be opened: {e}"))?;
        let library = ManuallyDrop::new(library);
        // SAFETY: the symbol is looked up and not read.
        #[allow(unsafe_code)]
        let is_new = unsafe { library.get::<*const c_void>(SINCE_2_2) }.is_ok();
        // SAFETY: as above.
        #[allow(unsafe_code)]
        let is_litert = unsafe { library.get::<*const c_void>(b"LiteRtCreateEnvironment\0") };
        match (is_litert.is_ok(), is_new) {
            (true, true) => Self::of(&library),
            (true, false) => Err("it is older than release 2.2".to_owned()),
            (false, _) => Err("it is not LiteRT: it has no `LiteRtCreateEnvironment`".to_owned()),
        }
    }
}

/// An input or output of a loaded model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Slot {
    /// Place of the tensor in the file.
    pub(super) tensor: u32,
    /// Its element type as LiteRT numbers them.
    pub(super) element: c_int,
    pub(super) shape: Vec<u64>,
    /// Length of its data.
    pub(super) bytes: usize,
}

/// A model that is ready to run. All of the library that it uses is its own, so that models on
/// several threads have nothing to do with each other.
pub(super) struct Loaded {
    pub(super) inputs: Vec<Slot>,
    pub(super) outputs: Vec<Slot>,
    input_buffers: Vec<Handle>,
    output_buffers: Vec<Handle>,
    compiled: Handle,
    model: Handle,
    environment: Handle,
    api: Arc<Api>,
    /// The library refers to them as long as the model lives.
    _bytes: Bytes,
}

// SAFETY: the handles are used by one thread at a time, since running takes `&mut self`; the library
// binds none of them to the thread that made it.
#[allow(unsafe_code)]
unsafe impl Send for Loaded {}

impl Loaded {
    /// Compiles a model for so many threads of the processor.
    pub(super) fn new(api: Arc<Api>, bytes: &Bytes, threads: usize) -> Result<Self, String> {
        let mut loaded = Self {
            inputs: Vec::new(),
            outputs: Vec::new(),
            input_buffers: Vec::new(),
            output_buffers: Vec::new(),
            compiled: ptr::null_mut(),
            model: ptr::null_mut(),
            environment: ptr::null_mut(),
            api,
            _bytes: aligned(bytes),
        };
        loaded.compile(threads)?;
        loaded.make_buffers()?;
        Ok(loaded)
    }

    fn compile(&mut self, threads: usize) -> Result<(), String> {
        let number = |tag, value| EnvironmentOption { tag, value: Any { kind: INTEGER, value } };
        let options = [number(ACCELERATORS_TAG, PROCESSOR.into()), number(SEVERITY_TAG, ERRORS)];
        let api = self.api.clone();
        // SAFETY: the arguments are as the headers declare them: `options` lives through the call,
        // `_bytes` as long as the model, and every handle was made by the call before.
        #[allow(unsafe_code)]
        unsafe {
            let count = options.len() as c_int;
            let made = (api.create_environment)(count, options.as_ptr(), &mut self.environment);
            done("its environment", made)?;
            let (start, length) = (self._bytes.as_ptr().cast(), self._bytes.len());
            let read = (api.create_model)(self.environment, start, length, &mut self.model);
            done("reading the model", read)?;
            let mut options = ptr::null_mut();
            done("its options", (api.create_options)(&mut options))?;
            let compiled = set_options(&api, options, threads).and_then(|()| {
                let made = (api.compile)(self.environment, self.model, options, &mut self.compiled);
                done("preparing the model", made)
            });
            (api.destroy_options)(options);
            compiled
        }
    }

    /// Reads what the model's first signature says, and makes a buffer for each tensor of it.
    fn make_buffers(&mut self) -> Result<(), String> {
        let api = self.api.clone();
        // SAFETY: the model is compiled; the signature and its tensors belong to the model, and
        // every index is below the count that the library states.
        #[allow(unsafe_code)]
        unsafe {
            let mut count = 0;
            done("its signatures", (api.count_signatures)(self.model, &mut count))?;
            if count != 1 {
                return Err(format!("it has {count} signatures; one is needed"));
            }
            let mut signature = ptr::null_mut();
            done("its signature", (api.signature)(self.model, 0, &mut signature))?;
            done("its inputs", (api.count_inputs)(signature, &mut count))?;
            for index in 0..count {
                let mut tensor = ptr::null_mut();
                done("an input", (api.input)(signature, index, &mut tensor))?;
                let mut layout = empty();
                let found = (api.input_layout)(self.compiled, 0, index, &mut layout);
                done("the shape of an input", found)?;
                let mut requirements = ptr::null_mut();
                let asked = (api.input_requirements)(self.compiled, 0, index, &mut requirements);
                done("what an input needs", asked)?;
                let (slot, buffer) = self.buffer(tensor, layout, requirements)?;
                self.input_buffers.push(buffer);
                self.inputs.push(slot);
            }
            done("its outputs", (api.count_outputs)(signature, &mut count))?;
            let mut layouts = vec![empty(); count];
            // As the library computes them, not as the file says: it writes that much.
            let found = (api.output_layouts)(self.compiled, 0, count, layouts.as_mut_ptr(), true);
            done("the shapes of its outputs", found)?;
            for (index, &layout) in layouts.iter().enumerate() {
                let mut tensor = ptr::null_mut();
                done("an output", (api.output)(signature, index, &mut tensor))?;
                let mut requirements = ptr::null_mut();
                let asked = (api.output_requirements)(self.compiled, 0, index, &mut requirements);
                done("what an output needs", asked)?;
                let (slot, buffer) = self.buffer(tensor, layout, requirements)?;
                self.output_buffers.push(buffer);
                self.outputs.push(slot);
            }
        }
        Ok(())
    }

    /// A buffer for a tensor of the model, and what is known of it. An answer that is an input, too, or
    /// is named twice, has one buffer: of several, the library would use the last.
    ///
    /// # Safety
    /// `tensor` and `requirements` are of this model.
    #[allow(unsafe_code)]
    unsafe fn buffer(
        &self,
        tensor: Handle,
        layout: Layout,
        requirements: Handle,
    ) -> Result<(Slot, Handle), String> {
        let api = &self.api;
        let mut index = 0;
        let mut kind = TensorType { element: 0, layout };
        // SAFETY: the handles are of this model, as the caller promises.
        unsafe {
            done("the place of a tensor", (api.tensor_index)(tensor, &mut index))?;
            done("the type of a tensor", (api.tensor_type)(tensor, &mut kind))?;
        }
        let inputs = self.inputs.iter().zip(&self.input_buffers);
        let mut made = inputs.chain(self.outputs.iter().zip(&self.output_buffers));
        if let Some((slot, &buffer)) = made.find(|(slot, _)| slot.tensor == index) {
            return Ok((slot.clone(), buffer));
        }
        // What the file leaves open, the compiled model has settled.
        kind.layout = layout;
        let shape = dimensions(&layout).ok_or_else(|| format!("tensor {index} has no size"))?;
        let mut buffer = ptr::null_mut();
        let mut bytes = 0;
        // SAFETY: as above; the buffer is freed here unless it is handed out.
        unsafe {
            let made = (api.create_buffer)(self.environment, &kind, requirements, &mut buffer);
            done("a buffer", made)?;
            done("the size of a buffer", (api.packed_size)(buffer, &mut bytes)).inspect_err(
                |_| {
                    (api.destroy_buffer)(buffer);
                },
            )?;
        }
        Ok((Slot { tensor: index, element: kind.element, shape, bytes }, buffer))
    }

    /// Runs once. The inputs' data are in the order of [`inputs`](Self::inputs), each as long as
    /// that says; the answers are in the order of the asked positions among the outputs.
    pub(super) fn run(
        &mut self,
        inputs: &[&[u8]],
        outputs: &[usize],
    ) -> Result<Vec<Bytes>, String> {
        let fits = |(slot, data): (&Slot, &&[u8])| slot.bytes == data.len();
        if inputs.len() != self.inputs.len() || !self.inputs.iter().zip(inputs).all(fits) {
            return Err("an input is missing or has another length".to_owned());
        }
        let api = &self.api;
        for (&buffer, data) in self.input_buffers.iter().zip(inputs) {
            // SAFETY: the buffer is this model's, and holds as many bytes as `data` has, which was
            // compared above; the locked memory is main memory, and of nobody else.
            #[allow(unsafe_code)]
            unsafe {
                let place = locked(api, buffer, LockMode::Write)?;
                ptr::copy_nonoverlapping(data.as_ptr(), place, data.len());
                done("unlocking an input", (api.unlock)(buffer))?;
            }
        }
        // SAFETY: the arrays hold the buffers that were made for the signature, in its order.
        #[allow(unsafe_code)]
        let status = unsafe {
            let (ins, outs) = (&mut self.input_buffers, &mut self.output_buffers);
            (api.run)(self.compiled, 0, ins.len(), ins.as_mut_ptr(), outs.len(), outs.as_mut_ptr())
        };
        done("a run", status)?;
        outputs.iter().map(|&index| self.answer(index)).collect()
    }

    /// A copy of an output.
    fn answer(&self, index: usize) -> Result<Bytes, String> {
        let (Some(slot), Some(&buffer)) = (self.outputs.get(index), self.output_buffers.get(index))
        else {
            return Err(format!("there is no output {index}"));
        };
        // SAFETY: the buffer is this model's and holds `slot.bytes` bytes, as the library said; it
        // is written by runs alone, and none goes on meanwhile.
        #[allow(unsafe_code)]
        unsafe {
            let place = locked(&self.api, buffer, LockMode::Read)?;
            let data = Bytes::copy_from_slice(std::slice::from_raw_parts(place, slot.bytes));
            done("unlocking an output", (self.api.unlock)(buffer))?;
            Ok(data)
        }
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let api = &self.api;
        let buffers = self.input_buffers.drain(..).chain(self.output_buffers.drain(..));
        // Tensors may share one.
        let buffers: BTreeSet<Handle> = buffers.collect();
        // SAFETY: each handle is null or was made by the library and is freed once, what refers to
        // others before them.
        #[allow(unsafe_code)]
        unsafe {
            buffers.into_iter().for_each(|buffer| (api.destroy_buffer)(buffer));
            let rest = [
                (self.compiled, api.destroy_compiled),
                (self.model, api.destroy_model),
                (self.environment, api.destroy_environment),
            ];
            for (handle, destroy) in rest.into_iter().filter(|(handle, _)| !handle.is_null()) {
                destroy(handle);
            }
        }
    }
}

/// `LiteRtTensorBufferLockMode`.
enum LockMode {
    Read = 0,
    Write = 1,
}

/// Where a buffer lies in memory, until it is unlocked.
///
/// # Safety
/// The buffer is one that was made and not freed.
#[allow(unsafe_code)]
unsafe fn locked(api: &Api, buffer: Handle, mode: LockMode) -> Result<*mut u8, String> {
    let mut place = ptr::null_mut();
    // SAFETY: as the caller promises.
    done("locking a buffer", unsafe { (api.lock)(buffer, &mut place, mode as c_int) })?;
    match place.is_null() {
        true => Err("a buffer is not in main memory".to_owned()),
        false => Ok(place.cast()),
    }
}

/// Chooses the processor, and how many threads compute on it.
///
/// # Safety
/// The options were made and not freed.
#[allow(unsafe_code)]
unsafe fn set_options(api: &Api, options: Handle, threads: usize) -> Result<(), String> {
    // SAFETY: the text lives until the library calls `free_text`, which it does once; the opaque
    // options belong to `options` as soon as they were added.
    unsafe {
        done("its accelerator", (api.set_accelerators)(options, PROCESSOR))?;
        let text = CString::new(format!("num_threads = {threads}\n")).unwrap_or_default();
        let text = text.into_raw();
        let mut opaque = ptr::null_mut();
        let made = (api.create_opaque)(CPU_OPTIONS.as_ptr(), text.cast(), free_text, &mut opaque);
        if made != 0 {
            free_text(text.cast());
        }
        done("its number of threads", made)?;
        done("its number of threads", (api.add_opaque)(options, opaque))
            .inspect_err(|_| (api.destroy_opaque)(opaque))
    }
}

/// # Safety
/// The text comes from [`CString::into_raw`] and is not used afterwards.
#[allow(unsafe_code)]
unsafe extern "C" fn free_text(text: *mut c_void) {
    // SAFETY: as the caller promises.
    drop(unsafe { CString::from_raw(text.cast()) });
}

/// The same bytes where they are aligned as the library needs them, as a file's are; else a copy.
fn aligned(bytes: &Bytes) -> Bytes {
    if bytes.as_ptr().addr().is_multiple_of(ALIGNMENT) {
        return bytes.clone();
    }
    let mut words = vec![0u128; bytes.len().div_ceil(size_of::<u128>())];
    bytemuck::cast_slice_mut::<_, u8>(&mut words)[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(Words(words)).slice(..bytes.len())
}

struct Words(Vec<u128>);

impl AsRef<[u8]> for Words {
    fn as_ref(&self) -> &[u8] {
        bytemuck::cast_slice(&self.0)
    }
}

fn empty() -> Layout {
    Layout { rank: 0, dimensions: [0; MAX_RANK], strides: [0; MAX_RANK] }
}

/// The sizes of the axes, where each is known.
fn dimensions(layout: &Layout) -> Option<Vec<u64>> {
    let rank = usize::from(layout.rank & 0x7f);
    let known = layout.dimensions.get(..rank)?;
    known.iter().map(|&size| u64::try_from(size).ok()).collect()
}

/// What a status says, as an error.
fn done(what: &str, status: Status) -> Result<(), String> {
    let reason = match status {
        0 => return Ok(()),
        1 => "an argument is invalid",
        2 => "out of memory",
        3 => "the runtime failed",
        4 => "an input is missing",
        5 => "not supported",
        6 => "not found",
        8 => "wrong version",
        500 => "a file could not be read",
        501 => "the file is damaged",
        504 => "compilation failed",
        1000..=1003 => "the network is inconsistent",
        4000 => "the file needs a newer release",
        _ => "unknown cause",
    };
    Err(format!("{what}: {reason} (status {status})"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misaligned_bytes_are_copied() {
        let bytes = Bytes::from((0..100).collect::<Vec<u8>>());
        let start = usize::from(bytes.as_ptr().addr().is_multiple_of(ALIGNMENT));
        let moved = bytes.slice(start..);
        let copy = aligned(&moved);
        assert!(copy.as_ptr().addr().is_multiple_of(ALIGNMENT));
        assert_eq!(copy, moved);
        assert_eq!(aligned(&copy).as_ptr(), copy.as_ptr());
    }

    #[test]
    fn a_layout_is_read_without_its_flag() {
        let mut layout = empty();
        layout.rank = 2 | 0x80;
        layout.dimensions[..2].copy_from_slice(&[3, 4]);
        assert_eq!(dimensions(&layout), Some(vec![3, 4]));
        layout.dimensions[1] = -1;
        assert_eq!(dimensions(&layout), None);
        layout.rank = 9;
        assert_eq!(dimensions(&layout), None);
    }

    #[test]
    fn a_status_is_told_in_words() {
        assert!(done("x", 0).is_ok());
        assert_eq!(done("a run", 3).unwrap_err(), "a run: the runtime failed (status 3)");
    }
}

// An accelerator that is simulated: its memory is the host's, and its kernels are the CPU's.
//
// It keeps to what a real one asks of a program: tensors of the device and of the host do not meet in
// one operation, and random numbers come from generators of the device. It counts what makes a real
// one wait: copies between host and device, and values that the host reads.

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/InferSize.h>
#include <ATen/TensorUtils.h>
#include <ATen/autocast_mode.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <c10/core/Allocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <mutex>
#include <set>
#include <string>
#include <vector>

namespace {

constexpr auto DEVICE = c10::DeviceType::PrivateUse1;
constexpr int N_DEVICES = 2;
using Stack = torch::jit::Stack;

// Counts -----------------------------------------------------------------------------------------

std::atomic<int64_t> uploads{0}, downloads{0}, reads{0}, pageable_uploads{0}, kernels{0};
std::atomic<int64_t> records{0}, waits{0}, synchronizations{0};
std::atomic<bool> refuses_float64{false};

void check_dtype(at::ScalarType dtype) {
  TORCH_CHECK_TYPE(
      !refuses_float64 || dtype != at::kDouble,
      "Cannot convert a tensor to float64: the simulated device has been told not to have it.");
}

// Memory -----------------------------------------------------------------------------------------

thread_local c10::DeviceIndex current = 0;
std::mutex pinned_lock;
std::set<std::pair<const char*, size_t>> pinned;

struct DeviceAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = size ? std::malloc(size) : nullptr;
    return {data, data, &std::free, c10::Device(DEVICE, current)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
} device_allocator;

struct PinnedAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t size) override {
    void* data = std::malloc(size ? size : 1);
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.insert({static_cast<const char*>(data), size});
    return {data, data, &release, c10::Device(c10::DeviceType::CPU)};
  }
  static void release(void* data) {
    std::lock_guard<std::mutex> guard(pinned_lock);
    pinned.erase(pinned.lower_bound({static_cast<const char*>(data), 0}));
    std::free(data);
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t size) const override {
    std::memcpy(to, from, size);
  }
} pinned_allocator;

bool is_pinned(const void* data) {
  std::lock_guard<std::mutex> guard(pinned_lock);
  auto next = pinned.upper_bound({static_cast<const char*>(data), SIZE_MAX});
  if (next == pinned.begin()) return false;
  const auto& [begin, size] = *std::prev(next);
  return data >= begin && data < begin + std::max<size_t>(size, 1);
}

// Random numbers ---------------------------------------------------------------------------------

// The CPU's generator under the device's name.
struct DeviceGenerator final : c10::GeneratorImpl {
  explicit DeviceGenerator(c10::DeviceIndex index)
      : c10::GeneratorImpl(c10::Device(DEVICE, index), c10::DispatchKeySet(c10::DispatchKey::PrivateUse1)),
        own(at::make_generator<at::CPUGeneratorImpl>()) {}
  void set_current_seed(uint64_t seed) override { own.set_current_seed(seed); }
  void set_offset(uint64_t) override { TORCH_CHECK(false, "no offsets here"); }
  uint64_t get_offset() const override { TORCH_CHECK(false, "no offsets here"); }
  uint64_t current_seed() const override { return own.current_seed(); }
  uint64_t seed() override { return own.seed(); }
  void set_state(const c10::TensorImpl& state) override { own.unsafeGetGeneratorImpl()->set_state(state); }
  c10::intrusive_ptr<c10::TensorImpl> get_state() const override {
    return own.unsafeGetGeneratorImpl()->get_state();
  }
  DeviceGenerator* clone_impl() const override {
    auto* copy = new DeviceGenerator(device().index());
    copy->own = own.clone();
    return copy;
  }
  at::Generator own;
};

at::Generator new_generator(c10::DeviceIndex index) {
  return at::Generator(c10::make_intrusive<DeviceGenerator>(index < 0 ? current : index));
}

const at::Generator& default_generator(c10::DeviceIndex index) {
  static std::vector<at::Generator> all{new_generator(0), new_generator(1)};
  return all[index < 0 ? current : index];
}

at::Generator& of_cpu(const at::Generator& generator) {
  return static_cast<DeviceGenerator*>(generator.unsafeGetGeneratorImpl())->own;
}

// Devices, streams and events --------------------------------------------------------------------

thread_local c10::StreamId current_stream[N_DEVICES] = {0, 0};
std::atomic<c10::StreamId> streams{0};
using Moment = std::chrono::steady_clock::time_point;

c10::Stream stream_of(c10::Device device, c10::StreamId id) {
  auto index = device.has_index() ? device.index() : current;
  return c10::Stream(c10::Stream::UNSAFE, c10::Device(DEVICE, index), id);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return DEVICE; }
  c10::Device exchangeDevice(c10::Device device) const override {
    auto before = getDevice();
    setDevice(device);
    return before;
  }
  c10::Device getDevice() const override { return c10::Device(DEVICE, current); }
  void setDevice(c10::Device device) const override {
    TORCH_CHECK(device.index() < N_DEVICES, "there are ", N_DEVICES, " simulated devices");
    if (device.has_index()) current = device.index();
  }
  void uncheckedSetDevice(c10::Device device) const noexcept override {
    if (device.has_index()) current = device.index();
  }
  c10::Stream getStream(c10::Device device) const override {
    return stream_of(device, current_stream[device.has_index() ? device.index() : current]);
  }
  c10::Stream getDefaultStream(c10::Device device) const override { return stream_of(device, 0); }
  c10::Stream getStreamFromGlobalPool(c10::Device device, bool) const override {
    return stream_of(device, ++streams);
  }
  c10::Stream getNewStream(c10::Device device, int) const override { return stream_of(device, ++streams); }
  c10::Stream exchangeStream(c10::Stream stream) const override {
    auto before = getStream(stream.device());
    current_stream[stream.device_index()] = stream.id();
    return before;
  }
  c10::DeviceIndex deviceCount() const noexcept override { return N_DEVICES; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    if (!*event) *event = new Moment;
    *static_cast<Moment*>(*event) = std::chrono::steady_clock::now();
  }
  void block(void*, const c10::Stream&) const override { ++waits; }
  bool queryEvent(void*) const override { return true; }
  void destroyEvent(void* event, const c10::DeviceIndex) const noexcept override {
    delete static_cast<Moment*>(event);
  }
  double elapsedTime(void* begin, void* end, const c10::DeviceIndex) const override {
    std::chrono::duration<double, std::milli> took =
        *static_cast<Moment*>(end) - *static_cast<Moment*>(begin);
    return took.count();
  }
  bool queryStream(const c10::Stream&) const override { return true; }
  void synchronizeStream(const c10::Stream&) const override { ++synchronizations; }
  void synchronizeDevice(const c10::DeviceIndex) const override { ++synchronizations; }
  void synchronizeEvent(void*) const override { ++synchronizations; }
  void recordDataPtrOnStream(const c10::DataPtr&, const c10::Stream&) const override { ++records; }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return N_DEVICES; }
  c10::DeviceIndex getCurrentDevice() const override { return current; }
  void setCurrentDevice(c10::DeviceIndex index) const override { current = index; }
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex index) const override {
    return std::exchange(current, index);
  }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex index) const override {
    return std::exchange(current, index);
  }
  bool isPinnedPtr(const void* data) const override { return is_pinned(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned_allocator; }
  c10::Device getDeviceFromPtr(void*) const override { return c10::Device(DEVICE, current); }
  const at::Generator& getDefaultGenerator(c10::DeviceIndex index) const override {
    return default_generator(index);
  }
  at::Generator getNewGenerator(c10::DeviceIndex index) const override { return new_generator(index); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t size) const override {
    auto data = device_allocator.allocate(size);
    if (size && storage.nbytes()) std::memcpy(data.get(), storage.data(), std::min(size, storage.nbytes()));
    auto* own = storage.unsafeGetStorageImpl();
    own->set_data_ptr_noswap(std::move(data));
    own->set_nbytes(size);
  }
};

[[maybe_unused]] const Hooks* hooks = [] {
  c10::SetAllocator(DEVICE, &device_allocator);
  auto* made = new Hooks;
  at::RegisterPrivateUse1HooksInterface(made);
  return made;
}();

// Tensors ----------------------------------------------------------------------------------------

bool on_device(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == DEVICE; }

struct OnDevice {  // new memory is the given device's
  explicit OnDevice(c10::DeviceIndex index) : before(current) {
    if (index >= 0) current = index;
  }
  ~OnDevice() { current = before; }
  c10::DeviceIndex before;
};

c10::DeviceIndex index_of(const std::optional<at::Device>& device) { return device ? device->index() : -1; }

at::Tensor empty(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>,
    std::optional<at::Device> device, std::optional<bool>, std::optional<at::MemoryFormat> format) {
  check_dtype(c10::dtype_or_default(dtype));
  OnDevice on(index_of(device));
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &device_allocator, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
      c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device> device, std::optional<bool>) {
  check_dtype(c10::dtype_or_default(dtype));
  OnDevice on(index_of(device));
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &device_allocator,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), c10::dtype_or_default(dtype));
}

at::Tensor view_of(const at::Tensor& self, at::IntArrayRef size, at::IntArrayRef stride, int64_t offset) {
  auto view = at::detail::make_tensor<c10::TensorImpl>(
      c10::TensorImpl::VIEW, c10::Storage(self.storage()), self.key_set(), self.dtype());
  view.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride, offset);
  return view;
}

at::Tensor as_strided(
    const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride,
    std::optional<c10::SymInt> offset) {
  return view_of(
      self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride),
      offset ? offset->expect_int() : self.storage_offset());
}

at::Tensor reshape_alias(const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride) {
  return view_of(
      self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), self.storage_offset());
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef symbolic) {
  auto size = at::infer_size_dv(C10_AS_INTARRAYREF_SLOW(symbolic), self.numel());
  auto stride = at::detail::computeStride(self.sizes(), self.strides(), size);
  TORCH_CHECK(stride.has_value(), "view size is not compatible with input tensor's size and stride");
  return view_of(self, size, *stride, self.storage_offset());
}

at::Tensor unfold(const at::Tensor& self, int64_t dimension, int64_t size, int64_t step) {
  auto sizes = self.sizes().vec(), strides = self.strides().vec();
  auto dim = at::maybe_wrap_dim(dimension, self.dim());
  sizes.push_back(size);
  strides.push_back(self.dim() ? strides[dim] : 1);
  if (self.dim()) {
    sizes[dim] = (sizes[dim] - size) / step + 1;
    strides[dim] *= step;
  }
  return view_of(self, sizes, strides, self.storage_offset());
}

const at::Tensor& resize_(
    const at::Tensor& self, c10::SymIntArrayRef symbolic, std::optional<at::MemoryFormat> format) {
  auto size = C10_AS_INTARRAYREF_SLOW(symbolic);
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(size);
  if (format && *format != at::MemoryFormat::Contiguous) impl->empty_tensor_restride(*format);
  size_t needed = (impl->storage_offset() + impl->numel()) * impl->itemsize();
  if (self.storage().nbytes() < needed) {
    OnDevice on(self.device().index());
    at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(self.storage(), needed);
  }
  return self;
}

at::Tensor& set_(
    at::Tensor& self, at::Storage source, c10::SymInt offset, c10::SymIntArrayRef size,
    c10::SymIntArrayRef stride) {
  auto* impl = self.unsafeGetTensorImpl();
  impl->set_storage_keep_dtype(std::move(source));
  impl->set_sizes_and_strides(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), offset.expect_int());
  return self;
}

at::Tensor& set_whole(at::Tensor& self, at::Storage source) {
  int64_t length = source.nbytes() / self.dtype().itemsize();
  return set_(self, std::move(source), 0, c10::SymInt(length), c10::SymInt(1));
}

at::Tensor& set_empty(at::Tensor& self) {
  return set_whole(self, c10::Storage(
      c10::Storage::use_byte_size_t(), 0, device_allocator.allocate(0), &device_allocator, true));
}

// A tensor of the CPU in the same memory; what a kernel resizes gets memory of its own.
at::Tensor as_cpu(const at::Tensor& tensor) {
  if (!on_device(tensor)) return tensor;
  void* data = const_cast<void*>(tensor.storage().data());
  c10::Storage storage(
      c10::Storage::use_byte_size_t(), tensor.storage().nbytes(),
      c10::DataPtr(data, c10::Device(c10::DeviceType::CPU)), c10::GetAllocator(c10::DeviceType::CPU), true);
  auto alias = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  alias.unsafeGetTensorImpl()->set_sizes_and_strides(
      tensor.sizes(), tensor.strides(), tensor.storage_offset());
  return alias;
}

at::Tensor as_device(const at::Tensor& result, c10::DeviceIndex index) {
  if (!result.defined() || on_device(result)) return result;
  check_dtype(result.scalar_type());
  OnDevice on(index);
  at::Tensor made = at::detail::empty_strided_generic(
      result.sizes(), result.strides(), &device_allocator,
      c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), result.scalar_type());
  as_cpu(made).copy_(result);
  return made;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& to, bool) {
  if (on_device(self) && !on_device(to)) ++downloads;
  if (!on_device(self) && on_device(to)) {
    ++uploads;
    if (!is_pinned(self.storage().data())) ++pageable_uploads;
  }
  as_cpu(to).copy_(as_cpu(self));
  return to;
}

at::Tensor copy_from_and_resize(const at::Tensor& self, const at::Tensor& to) {
  if (self.sizes() != to.sizes()) to.resize_(self.sizes());
  return copy_from(self, to, false);
}

at::Scalar item(const at::Tensor& self) {
  ++reads;
  return as_cpu(self).item();
}

void record_stream(at::Tensor&, at::Stream) { ++records; }

// Kernels ----------------------------------------------------------------------------------------

// The size of their result is a value, so that the host waits for it.
const std::set<std::string> READING{
    "aten::nonzero",         "aten::masked_select", "aten::_unique2",  "aten::unique_dim",
    "aten::unique_consecutive", "aten::bincount",   "aten::equal",     "aten::repeat_interleave",
    "aten::histc",           "aten::masked_scatter", "aten::multinomial"};
// They take row numbers from either side.
const std::set<std::string> INDEXING{
    "aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index"};

struct Call {
  std::string name;
  bool indexes;
  bool is_out = false;
  int64_t on_host = 0;
  c10::DeviceIndex index = -1;
  std::vector<std::pair<at::Tensor, at::Tensor>> aliases;

  at::Tensor convert(const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    if (!on_device(tensor)) {
      if (tensor.dim()) ++on_host;  // a number may come from the host, as on CUDA
      return tensor;
    }
    if (indexes && (tensor.scalar_type() == at::kBool || tensor.scalar_type() == at::kByte) &&
        !aliases.empty())
      ++reads;
    index = tensor.device().index();
    // What is only written begins empty: some kernels take another size on their way to the result.
    aliases.emplace_back(
        tensor, is_out ? at::empty({0}, tensor.options().device(at::kCPU)) : as_cpu(tensor));
    return aliases.back().second;
  }

  c10::IValue convert(const c10::IValue& value) {
    if (value.isTensor()) return convert(value.toTensor());
    if (value.isTensorList()) {
      c10::List<at::Tensor> converted;
      for (const at::Tensor& tensor : value.toTensorVector()) converted.push_back(convert(tensor));
      return converted;
    }
    if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> converted;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        converted.push_back(tensor ? std::optional<at::Tensor>(convert(*tensor)) : std::nullopt);
      return converted;
    }
    if (value.isGenerator()) {
      auto generator = value.toGenerator();
      TORCH_CHECK(
          generator.device().type() == DEVICE, "Expected a '", c10::get_privateuse1_backend(),
          "' device type for generator but found '", generator.device(), "' in ", name);
      return of_cpu(generator);
    }
    if (value.isDevice() && value.toDevice().type() == DEVICE) {
      index = value.toDevice().index();
      return c10::Device(c10::DeviceType::CPU);
    }
    return value;
  }

  at::Tensor back(const at::Tensor& result) {
    for (const auto& [original, alias] : aliases)
      if (result.is_same(alias)) return original;
    return as_device(result, index);
  }

  c10::IValue back(const c10::IValue& value) {
    if (value.isTensor()) return back(value.toTensor());
    if (!value.isTensorList()) return value;
    c10::List<at::Tensor> converted;
    for (const at::Tensor& tensor : value.toTensorVector()) converted.push_back(back(tensor));
    return converted;
  }

  // What a kernel resized has left the device's memory.
  void return_resized() {
    for (const auto& [original, alias] : aliases) {
      if (alias.storage().data() == original.storage().data() && alias.sizes() == original.sizes()) continue;
      if (alias.sizes() != original.sizes())
        resize_(original, c10::fromIntArrayRefSlow(alias.sizes()), std::nullopt);
      as_cpu(original).copy_(alias);
    }
  }
};

// Kernels that draw without being handed a generator draw from the CPU's: it is the device's meanwhile.
struct DrawsFromDevice {
  explicit DrawsFromDevice(c10::DeviceIndex index)
      : cpu(at::detail::getDefaultCPUGenerator()), own(of_cpu(default_generator(index))),
        before(cpu.get_state()) {
    cpu.set_state(own.get_state());
  }
  ~DrawsFromDevice() {
    own.set_state(cpu.get_state());
    cpu.set_state(before);
  }
  at::Generator cpu, own;
  at::Tensor before;
};

void kernel(const c10::OperatorHandle& op, Stack* stack) {
  const auto& schema = op.schema();
  const auto n_arguments = schema.arguments().size(), n_returns = schema.returns().size();
  const auto begin = stack->size() - n_arguments;
  Call call{schema.name(), INDEXING.count(schema.name()) > 0};
  ++kernels;
  if (READING.count(call.name)) ++reads;
  bool draws = op.hasTag(at::Tag::nondeterministic_seeded);
  std::vector<size_t> generators;
  for (size_t i = 0; i < n_arguments; ++i) {
    auto& value = (*stack)[begin + i];
    bool is_generator = schema.arguments()[i].type()->str().find("Generator") != std::string::npos;
    call.is_out = schema.arguments()[i].is_out();
    value = call.convert(value);
    if (is_generator && value.isNone()) generators.push_back(begin + i);
    if (is_generator) draws = false;
  }
  if (call.on_host && call.indexes) uploads += call.on_host;
  TORCH_CHECK(
      !call.on_host || call.indexes || call.aliases.empty(),
      "Expected all tensors to be on the same device, but found at least two devices, ",
      c10::get_privateuse1_backend(), " and cpu! (", call.name, ")");
  for (auto place : generators) (*stack)[place] = of_cpu(default_generator(call.index));
  if (draws) {
    DrawsFromDevice drawing(call.index);
    op.callBoxed(stack);
  } else {
    op.callBoxed(stack);
  }
  call.return_resized();
  for (size_t i = stack->size() - n_returns; i < stack->size(); ++i) (*stack)[i] = call.back((*stack)[i]);
}

// Convolutions are asked for under another name where a backend is none of torch's own.
at::Tensor convolution(
    const at::Tensor& input, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
    c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  ++kernels;
  std::optional<at::Tensor> own_bias;
  if (bias && bias->defined()) own_bias = as_cpu(*bias);
  return as_device(
      at::convolution_symint(
          as_cpu(input), as_cpu(weight), own_bias, stride, padding, dilation, transposed, output_padding,
          groups),
      input.device().index());
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& grad, const at::Tensor& input, const at::Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed,
    c10::SymIntArrayRef output_padding, c10::SymInt groups, std::array<bool, 3> mask) {
  ++kernels;
  std::vector<c10::SymInt> bias_size{weight.sym_size(transposed ? 1 : 0) * (transposed ? groups : 1)};
  auto [one, two, three] = at::convolution_backward_symint(
      as_cpu(grad), as_cpu(input), as_cpu(weight), c10::SymIntArrayRef(bias_size), stride, padding, dilation,
      transposed, output_padding, groups, mask);
  auto index = input.device().index();
  return {as_device(one, index), as_device(two, index), as_device(three, index)};
}

std::vector<int64_t> counts() {
  return {uploads, downloads, reads, pageable_uploads, kernels, records, waits, synchronizations};
}

void reset() {
  for (auto* count : {&uploads, &downloads, &reads, &pageable_uploads, &kernels, &records, &waits,
                      &synchronizations})
    *count = 0;
}

}  // namespace

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", empty);
  m.impl("empty_strided", empty_strided);
  m.impl("as_strided", as_strided);
  m.impl("_reshape_alias", reshape_alias);
  m.impl("view", view);
  m.impl("unfold", unfold);
  m.impl("resize_", resize_);
  m.impl("set_.source_Storage_storage_offset", set_);
  m.impl("set_.source_Storage", set_whole);
  m.impl("set_", set_empty);
  m.impl("_copy_from", copy_from);
  m.impl("_copy_from_and_resize", copy_from_and_resize);
  m.impl("_local_scalar_dense", item);
  m.impl("record_stream", record_stream);
  m.impl("convolution_overrideable", convolution);
  m.impl("convolution_backward_overrideable", convolution_backward);
}

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) {
  m.fallback(torch::CppFunction::makeFromBoxedFunction<&kernel>());
}

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

#define LOWER(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, lower_precision_fp)
#define FULL(...) KERNEL_PRIVATEUSEONE(__VA_ARGS__, fp32)
TORCH_LIBRARY_IMPL(aten, AutocastPrivateUse1, m) {
  LOWER(linear)
  LOWER(conv1d)
  LOWER(conv2d, padding)
  LOWER(conv2d)
  LOWER(matmul)
  LOWER(mm)
  LOWER(bmm)
  LOWER(addmm)
  LOWER(scaled_dot_product_attention)
  FULL(mse_loss)
  FULL(cross_entropy_loss)
  FULL(binary_cross_entropy_with_logits)
  FULL(nll_loss)
  FULL(l1_loss)
}

TORCH_LIBRARY(luzpy_simulated, m) {
  m.def("counts", &counts);
  m.def("reset", &reset);
  m.def("refuse_float64", [](bool refuse) { refuses_float64 = refuse; });
  m.def("current_device", []() -> int64_t { return current; });
  m.def("set_device", [](int64_t index) { current = static_cast<c10::DeviceIndex>(index); });
  m.def("manual_seed", [](int64_t seed, int64_t index) {
    at::Generator(default_generator(index)).set_current_seed(static_cast<uint64_t>(seed));
  });
  m.def("get_rng_state", [](int64_t index) { return default_generator(index).get_state(); });
  m.def("set_rng_state", [](const at::Tensor& state, int64_t index) {
    at::Generator(default_generator(index)).set_state(state);
  });
}

// torch tensors as borrowed views, without torch's headers.
//
// Where the tensor's class offers DLPack's C exchange table (torch >= 2.10) the view is read through it in some tens
// of nanoseconds; otherwise from the Python attributes data_ptr, shape, stride and dtype in about a microsecond.
#pragma once
#include <pybind11/pybind11.h>

#include "core/tensor.h"

namespace transmamba::dlpack {  // the part of DLPack's stable binary interface that is read here

struct Version {
  uint32_t major, minor;
};
struct View {
  void* data;
  struct {
    int32_t type, id;
  } device;
  int32_t rank;
  struct {
    uint8_t code, bits;
    uint16_t lanes;
  } dtype;
  int64_t *shape, *stride;
  uint64_t byte_offset;
};
struct ExchangeTable {
  struct {
    Version version;
    void* previous;
  } header;
  void *allocate, *export_owned, *import_owned;
  int (*view)(void* tensor, View* out);
  void* current_stream;
};
constexpr uint32_t kMajor = 1;
enum Code : uint8_t { kInt = 0, kFloat = 2, kBfloat = 4 };

}  // namespace transmamba::dlpack

namespace pybind11::detail {

template <>
struct type_caster<transmamba::Tensor> {
  PYBIND11_TYPE_CASTER(transmamba::Tensor, const_name("torch.Tensor | None"));

  bool load(handle source, bool) {
    if (source.is_none()) return true;
    if (const auto* table = exchange_table(Py_TYPE(source.ptr()))) return from_dlpack(source, *table);
    return from_attributes(source);
  }

 private:
  using DType = transmamba::DType;

  static const transmamba::dlpack::ExchangeTable* exchange_table(PyTypeObject* type) {
    struct Entry {
      PyTypeObject* type;
      const transmamba::dlpack::ExchangeTable* table;
    };
    static Entry known[4] = {};  // Tensor, Parameter and what else comes by; guarded by the GIL
    static int next = 0;
    for (const Entry& entry : known)
      if (entry.type == type) return entry.table;
    const transmamba::dlpack::ExchangeTable* table = nullptr;
    object capsule = getattr(handle(reinterpret_cast<PyObject*>(type)), "__dlpack_c_exchange_api__", none());
    if (PyCapsule_IsValid(capsule.ptr(), "dlpack_exchange_api")) {
      table = static_cast<const transmamba::dlpack::ExchangeTable*>(
          PyCapsule_GetPointer(capsule.ptr(), "dlpack_exchange_api"));
      if (table->header.version.major != transmamba::dlpack::kMajor) table = nullptr;
    }
    Py_INCREF(type);  // stays valid as a key
    known[next++ % 4] = {type, table};
    return table;
  }

  bool from_dlpack(handle source, const transmamba::dlpack::ExchangeTable& table) {
    transmamba::dlpack::View view;
    if (table.view(source.ptr(), &view) != 0) throw error_already_set();
    if (view.rank > transmamba::Tensor::kMaxRank || view.dtype.lanes != 1) return false;
    value.data = static_cast<char*>(view.data) + view.byte_offset;
    value.rank = view.rank;
    for (int i = 0; i < view.rank; ++i) {
      value.shape[i] = view.shape[i];
      value.stride[i] = view.stride[i];
    }
    const auto [code, bits, lanes] = view.dtype;
    if (code == transmamba::dlpack::kFloat && bits == 32)
      value.dtype = DType::f32;
    else if (code == transmamba::dlpack::kFloat && bits == 64)
      value.dtype = DType::f64;
    else if (code == transmamba::dlpack::kBfloat && bits == 16)
      value.dtype = DType::bf16;
    else if (code == transmamba::dlpack::kFloat && bits == 16)
      value.dtype = DType::f16;
    else if (code == transmamba::dlpack::kInt && bits == 32)
      value.dtype = DType::i32;
    else if (code == transmamba::dlpack::kInt && bits == 64)
      value.dtype = DType::i64;
    else
      return false;
    return true;
  }

  bool from_attributes(handle source) {
    const tuple shape = source.attr("shape"), stride = source.attr("stride")();
    if (shape.size() > size_t(transmamba::Tensor::kMaxRank)) return false;
    value.data = PyLong_AsVoidPtr(object(source.attr("data_ptr")()).ptr());
    if (PyErr_Occurred()) throw error_already_set();
    value.rank = int(shape.size());
    for (int i = 0; i < value.rank; ++i) {
      value.shape[i] = shape[i].cast<int64_t>();
      value.stride[i] = stride[i].cast<int64_t>();
    }
    const std::string dtype = str(source.attr("dtype"));
    if (dtype == "torch.float32")
      value.dtype = DType::f32;
    else if (dtype == "torch.float64")
      value.dtype = DType::f64;
    else if (dtype == "torch.bfloat16")
      value.dtype = DType::bf16;
    else if (dtype == "torch.float16")
      value.dtype = DType::f16;
    else if (dtype == "torch.int32")
      value.dtype = DType::i32;
    else if (dtype == "torch.int64")
      value.dtype = DType::i64;
    else
      return false;
    return true;
  }
};

}  // namespace pybind11::detail

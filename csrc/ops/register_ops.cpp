#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <optional>
#include <vector>

#include "ops/operations.hpp"
#include "registration.hpp"

namespace goskill {
namespace {

// Tensors come as addresses: bfloat16 has no NumPy buffer. goskill.ops checks shapes, dtypes and layouts.
using Address = std::uintptr_t;

template <typename T>
T* pointer(std::optional<Address> address) {
    return reinterpret_cast<T*>(address.value_or(0));
}

ops::Rows make_rows(Address data, int dtype, std::int64_t count, std::int64_t dim, std::int64_t row_stride,
                    std::int64_t column_stride) {
    return {pointer<const void>(data), static_cast<ops::Dtype>(dtype), count, dim, row_stride, column_stride};
}

// What the sum and its gradient have in common.
ops::DroppedSum make_dropped_sum(Address random, std::int16_t least_kept, float kept_scale, Address weight,
                                 Address bias, float epsilon, int dtype, std::int64_t width) {
    return {nullptr,
            nullptr,
            nullptr,
            pointer<const std::int16_t>(random),
            least_kept,
            kept_scale,
            pointer<const float>(weight),
            pointer<const float>(bias),
            epsilon,
            static_cast<ops::Dtype>(dtype),
            width};
}

}  // namespace

void register_ops(pybind11::module_& module) {
    namespace py = pybind11;
    using Optional = std::optional<Address>;

    module.def("instruction_set", &ops::instruction_set,
               "Which CPU kernels run here: avx512, avx2 or baseline.");

    module.def(
        "nearest_code",
        [](Address x, int dtype, std::int64_t count, std::int64_t dim, std::int64_t row_stride,
           std::int64_t column_stride, Address codebook, std::int64_t codes, bool cosine, Address indices,
           Optional distance, int threads) {
            const ops::Lookup lookup{make_rows(x, dtype, count, dim, row_stride, column_stride),
                                     pointer<const float>(codebook),
                                     codes,
                                     cosine,
                                     nullptr,
                                     pointer<std::int64_t>(indices),
                                     pointer<float>(distance),
                                     nullptr,
                                     nullptr};
            const py::gil_scoped_release release;
            ops::nearest_code(lookup, threads);
        },
        py::arg("x"), py::arg("dtype"), py::arg("count"), py::arg("dim"), py::arg("row_stride"),
        py::arg("column_stride"), py::arg("codebook"), py::arg("codes"), py::arg("cosine"),
        py::arg("indices"), py::arg("distance"), py::arg("threads"));

    module.def(
        "vector_quantize",
        [](Address x, int dtype, std::int64_t count, std::int64_t dim, std::int64_t row_stride,
           std::int64_t column_stride, Address codebook, std::int64_t codes, Optional mask, Address indices,
           Address quantized_codes, Address quantized, Address counts, Address sums,
           Address mean_squared_error, Address elements, int threads) {
            const ops::Lookup lookup{make_rows(x, dtype, count, dim, row_stride, column_stride),
                                     pointer<const float>(codebook),
                                     codes,
                                     false,
                                     pointer<const bool>(mask),
                                     pointer<std::int64_t>(indices),
                                     nullptr,
                                     pointer<const void>(quantized_codes),
                                     pointer<void>(quantized)};
            const py::gil_scoped_release release;
            ops::quantize(lookup, pointer<float>(counts), pointer<float>(sums),
                          pointer<float>(mean_squared_error), pointer<float>(elements), threads);
        },
        py::arg("x"), py::arg("dtype"), py::arg("count"), py::arg("dim"), py::arg("row_stride"),
        py::arg("column_stride"), py::arg("codebook"), py::arg("codes"), py::arg("mask"), py::arg("indices"),
        py::arg("quantized_codes"), py::arg("quantized"), py::arg("counts"), py::arg("sums"),
        py::arg("mean_squared_error"), py::arg("elements"), py::arg("threads"));

    module.def(
        "straight_through",
        [](Address x, int dtype, std::int64_t count, std::int64_t dim, std::int64_t row_stride,
           std::int64_t column_stride, Address gradient, std::int64_t gradient_row_stride,
           std::int64_t gradient_column_stride, Address codes, Address indices, float scale, Address out,
           int threads) {
            const ops::StraightThrough task{
                make_rows(x, dtype, count, dim, row_stride, column_stride),
                make_rows(gradient, dtype, count, dim, gradient_row_stride, gradient_column_stride),
                pointer<const float>(codes),
                pointer<const std::int64_t>(indices),
                scale,
                pointer<void>(out)};
            const py::gil_scoped_release release;
            ops::straight_through(task, threads);
        },
        py::arg("x"), py::arg("dtype"), py::arg("count"), py::arg("dim"), py::arg("row_stride"),
        py::arg("column_stride"), py::arg("gradient"), py::arg("gradient_row_stride"),
        py::arg("gradient_column_stride"), py::arg("codes"), py::arg("indices"), py::arg("scale"),
        py::arg("out"), py::arg("threads"));

    module.def(
        "move_codebook",
        [](Address cluster_size, Address average, Address codes, std::int64_t count, std::int64_t dim,
           Address counts, Address sums, float decay, float eps, int threads) {
            const ops::MovingCodebook codebook{pointer<float>(cluster_size), pointer<float>(average),
                                               pointer<float>(codes), count, dim};
            const py::gil_scoped_release release;
            ops::move_codebook(codebook, pointer<const float>(counts), pointer<const float>(sums), decay, eps,
                               threads);
        },
        py::arg("cluster_size"), py::arg("average"), py::arg("codes"), py::arg("count"), py::arg("dim"),
        py::arg("counts"), py::arg("sums"), py::arg("decay"), py::arg("eps"), py::arg("threads"));

    module.def(
        "focal_loss",
        [](Address logits, int dtype, std::int64_t rows, std::int64_t classes, std::int64_t row_stride,
           Address target, Optional weight, Optional mask, float gamma, std::int64_t ignore_index,
           float label_smoothing, int reduction, Address losses, Optional reduced, Optional gradient,
           int threads) {
            const ops::Focal focal{pointer<const void>(logits),
                                   static_cast<ops::Dtype>(dtype),
                                   classes,
                                   row_stride,
                                   pointer<const std::int64_t>(target),
                                   pointer<const float>(weight),
                                   pointer<const bool>(mask),
                                   gamma,
                                   ignore_index,
                                   label_smoothing,
                                   1.0f,
                                   pointer<float>(losses),
                                   pointer<void>(gradient)};
            const py::gil_scoped_release release;
            return ops::focal_loss(focal, rows, static_cast<ops::Reduction>(reduction),
                                   pointer<float>(reduced), threads);
        },
        py::arg("logits"), py::arg("dtype"), py::arg("rows"), py::arg("classes"), py::arg("row_stride"),
        py::arg("target"), py::arg("weight"), py::arg("mask"), py::arg("gamma"), py::arg("ignore_index"),
        py::arg("label_smoothing"), py::arg("reduction"), py::arg("losses"), py::arg("reduced"),
        py::arg("gradient"), py::arg("threads"));

    module.def(
        "cached_attention",
        [](Address projected, int dtype, std::int64_t batch, std::int64_t fresh, std::int64_t heads,
           std::int64_t head_width, Address keys, Address values, std::int64_t capacity,
           std::int64_t key_stride, std::int64_t length, Optional visible, std::int64_t first_read,
           Address out, int threads) {
            const ops::CachedAttention task{pointer<const void>(projected),
                                            static_cast<ops::Dtype>(dtype),
                                            batch,
                                            fresh,
                                            heads,
                                            head_width,
                                            pointer<float>(keys),
                                            pointer<float>(values),
                                            capacity,
                                            key_stride,
                                            length,
                                            pointer<const bool>(visible),
                                            first_read,
                                            pointer<void>(out)};
            const py::gil_scoped_release release;
            ops::cached_attention(task, threads);
        },
        py::arg("projected"), py::arg("dtype"), py::arg("batch"), py::arg("fresh"), py::arg("heads"),
        py::arg("head_width"), py::arg("keys"), py::arg("values"), py::arg("capacity"), py::arg("key_stride"),
        py::arg("length"), py::arg("visible"), py::arg("first_read"), py::arg("out"), py::arg("threads"));

    module.def(
        "mask_weights",
        [](Address weights, Address masks, Address order, std::int64_t tasks, std::int64_t size, int dtype,
           Address out, int threads) {
            const ops::Masking task{pointer<const bool>(masks), pointer<const std::int64_t>(order), tasks,
                                    size, static_cast<ops::Dtype>(dtype)};
            const py::gil_scoped_release release;
            ops::mask_weights(task, pointer<const float>(weights), pointer<void>(out), threads);
        },
        py::arg("weights"), py::arg("masks"), py::arg("order"), py::arg("tasks"), py::arg("size"),
        py::arg("dtype"), py::arg("out"), py::arg("threads"));

    module.def(
        "sum_masked",
        [](Address gradients, Address masks, Address order, std::int64_t tasks, std::int64_t size, int dtype,
           Address out, int threads) {
            const ops::Masking task{pointer<const bool>(masks), pointer<const std::int64_t>(order), tasks,
                                    size, static_cast<ops::Dtype>(dtype)};
            const py::gil_scoped_release release;
            ops::sum_masked(task, pointer<const void>(gradients), pointer<float>(out), threads);
        },
        py::arg("gradients"), py::arg("masks"), py::arg("order"), py::arg("tasks"), py::arg("size"),
        py::arg("dtype"), py::arg("out"), py::arg("threads"));

    module.def(
        "random_words",
        [](std::uint64_t seed, Address out, std::int64_t count, int threads) {
            const py::gil_scoped_release release;
            ops::random_words(seed, pointer<std::uint32_t>(out), count, threads);
        },
        py::arg("seed"), py::arg("out"), py::arg("count"), py::arg("threads"));

    module.attr("SUM_PARTS") = ops::SUM_PARTS;

    module.def(
        "dropped_sum",
        [](Address residual, Address branch, Address branch_bias, Address random, std::int16_t least_kept,
           float kept_scale, Address weight, Address bias, float epsilon, int dtype, std::int64_t rows,
           std::int64_t width, Address total, Address normal, int threads) {
            ops::DroppedSum task =
                make_dropped_sum(random, least_kept, kept_scale, weight, bias, epsilon, dtype, width);
            task.residual = pointer<const float>(residual);
            task.branch = pointer<const void>(branch);
            task.branch_bias = pointer<const float>(branch_bias);
            const py::gil_scoped_release release;
            ops::dropped_sum(task, rows, pointer<float>(total), pointer<void>(normal), threads);
        },
        py::arg("residual"), py::arg("branch"), py::arg("branch_bias"), py::arg("random"),
        py::arg("least_kept"), py::arg("kept_scale"), py::arg("weight"), py::arg("bias"), py::arg("epsilon"),
        py::arg("dtype"), py::arg("rows"), py::arg("width"), py::arg("total"), py::arg("normal"),
        py::arg("threads"));

    module.def(
        "dropped_sum_gradient",
        [](Address total, Address by_total, Address by_normal, Address random, std::int16_t least_kept,
           float kept_scale, Address weight, Address bias, float epsilon, int dtype, std::int64_t rows,
           std::int64_t width, Address by_residual, Address by_branch, Address sums, int threads) {
            const ops::DroppedSum task =
                make_dropped_sum(random, least_kept, kept_scale, weight, bias, epsilon, dtype, width);
            const ops::DroppedSumGradient gradient{
                pointer<const float>(total), pointer<const float>(by_total), pointer<const void>(by_normal),
                pointer<float>(by_residual), pointer<void>(by_branch)};
            const py::gil_scoped_release release;
            ops::dropped_sum_gradient(task, gradient, rows, pointer<float>(sums), threads);
        },
        py::arg("total"), py::arg("by_total"), py::arg("by_normal"), py::arg("random"), py::arg("least_kept"),
        py::arg("kept_scale"), py::arg("weight"), py::arg("bias"), py::arg("epsilon"), py::arg("dtype"),
        py::arg("rows"), py::arg("width"), py::arg("by_residual"), py::arg("by_branch"), py::arg("sums"),
        py::arg("threads"));

    module.def(
        "bias_relu",
        [](Address values, Address bias, int dtype, std::int64_t rows, std::int64_t width, Address out,
           int threads) {
            const ops::BiasReLU task{pointer<const float>(bias), static_cast<ops::Dtype>(dtype), width};
            const py::gil_scoped_release release;
            ops::bias_relu(task, rows, pointer<const void>(values), pointer<void>(out), threads);
        },
        py::arg("values"), py::arg("bias"), py::arg("dtype"), py::arg("rows"), py::arg("width"),
        py::arg("out"), py::arg("threads"));

    module.def(
        "bias_relu_gradient",
        [](Address activation, Address gradient, int dtype, std::int64_t rows, std::int64_t width,
           Address out, Address sums, int threads) {
            const ops::BiasReLU task{nullptr, static_cast<ops::Dtype>(dtype), width};
            const py::gil_scoped_release release;
            ops::bias_relu_gradient(task, rows, pointer<const void>(activation),
                                    pointer<const void>(gradient), pointer<void>(out), pointer<float>(sums),
                                    threads);
        },
        py::arg("activation"), py::arg("gradient"), py::arg("dtype"), py::arg("rows"), py::arg("width"),
        py::arg("out"), py::arg("sums"), py::arg("threads"));

    module.def("attention_room", &ops::attention_room, py::arg("length"),
               "How long rows of attention weights are for so many tokens.");

    module.def(
        "self_attention",
        [](Address projected, int dtype, std::int64_t batch, std::int64_t length, std::int64_t heads,
           std::int64_t head_width, float scale, Optional random, std::int16_t least_kept, float kept_scale,
           Optional bias, Address weights, Optional gradient, Optional sums, Address out, int threads) {
            ops::SelfAttention task{pointer<const void>(projected),
                                    static_cast<ops::Dtype>(dtype),
                                    batch,
                                    length,
                                    heads,
                                    head_width,
                                    scale,
                                    pointer<const std::int16_t>(random),
                                    least_kept,
                                    kept_scale,
                                    pointer<const float>(bias),
                                    pointer<float>(weights),
                                    nullptr};
            const py::gil_scoped_release release;
            if (gradient) {
                ops::self_attention_gradient(task, pointer<const void>(gradient), pointer<void>(out),
                                             pointer<float>(sums), threads);
            } else {
                task.out = pointer<void>(out);
                ops::self_attention(task, threads);
            }
        },
        py::arg("projected"), py::arg("dtype"), py::arg("batch"), py::arg("length"), py::arg("heads"),
        py::arg("head_width"), py::arg("scale"), py::arg("random"), py::arg("least_kept"),
        py::arg("kept_scale"), py::arg("bias"), py::arg("weights"), py::arg("gradient"), py::arg("sums"),
        py::arg("out"), py::arg("threads"),
        "The attention, or with a gradient by it the gradient by what is projected.");

    module.def(
        "adam",
        [](const std::vector<std::array<Address, 5>>& parameters, const std::vector<std::int64_t>& sizes,
           double learning_rate, double beta1, double beta2, double epsilon, double weight_decay,
           bool decoupled, std::optional<float> clip, int threads) {
            const ops::Adam task{learning_rate, beta1, beta2, epsilon, weight_decay, decoupled};
            std::vector<ops::AdamParameter> all;
            for (std::size_t i = 0; i < parameters.size(); ++i) {
                const auto& [values, gradient, average, square, step] = parameters[i];
                all.push_back({pointer<float>(values), pointer<const float>(gradient),
                               pointer<float>(average), pointer<float>(square), pointer<float>(step),
                               sizes.at(i)});
            }
            const py::gil_scoped_release release;
            return ops::adam(task, all, clip, threads);
        },
        py::arg("parameters"), py::arg("sizes"), py::arg("learning_rate"), py::arg("beta1"), py::arg("beta2"),
        py::arg("epsilon"), py::arg("weight_decay"), py::arg("decoupled"), py::arg("clip"),
        py::arg("threads"),
        "Parameters: addresses of values, gradient, both moments and the count of steps.");

    module.def(
        "add_norm",
        [](Address residual, Optional addend, Address weight, Address bias, float epsilon, int dtype,
           std::int64_t rows, std::int64_t width, Address out, int threads) {
            const ops::AddNorm task{pointer<float>(residual),
                                    pointer<const void>(addend),
                                    pointer<const float>(weight),
                                    pointer<const float>(bias),
                                    epsilon,
                                    static_cast<ops::Dtype>(dtype),
                                    width,
                                    pointer<void>(out)};
            const py::gil_scoped_release release;
            ops::add_norm(task, rows, threads);
        },
        py::arg("residual"), py::arg("addend"), py::arg("weight"), py::arg("bias"), py::arg("epsilon"),
        py::arg("dtype"), py::arg("rows"), py::arg("width"), py::arg("out"), py::arg("threads"));
}

}  // namespace goskill

// Focal loss and its gradient for rows of logits. Included inside a namespace of an instruction set, after
// vectors.inl.

constexpr struct Ones {
    float values[LANES];
    constexpr Ones() : values() {
        for (float& value : values) value = 1.0f;
    }
} all_ones;
constexpr const float* ones = all_ones.values;

// A class's loss -(1 - p)^gamma log p and its derivative by log p, from log p.
struct ClassLoss {
    Float loss;
    Float slope;
};

inline ClassLoss class_loss(Float log_p, float gamma) {
    const Float miss = one_minus_exp(log_p);
    const Float focus = power(miss, gamma);
    const Float p = exp_nonpositive(log_p);
    // p log p / (1 - p) tends to -1 as p tends to 1 and to 0 as p tends to 0.
    const Float limited = miss > Float{} ? p * log_p / miss : splat(-1.0f);
    const Float ratio = p > Float{} ? limited : Float{};
    return {-(focus * log_p), -(focus * multiply_add(ratio, splat(-gamma), splat(1.0f)))};
}

inline float top_logit(const float* row, std::int64_t classes) {
    Float even = splat(-__builtin_inff()), odd = even;
    std::int64_t k = 0;
    for (; k + 2 * LANES <= classes; k += 2 * LANES) {
        even = greater(even, load(row + k));
        odd = greater(odd, load(row + k + LANES));
    }
    for (; k + LANES <= classes; k += LANES) even = greater(even, load(row + k));
    if (k < classes) odd = greater(odd, load_first(row + k, classes - k, -__builtin_inff()));
    return greatest(greater(even, odd));
}

// The sum of e^(z - top); the terms go to `terms` unless it is null, which may be `row` itself.
inline float exponentials(const float* row, std::int64_t classes, float top, float* terms) {
    const Float shift = splat(top);
    Float even{}, odd{};
    std::int64_t k = 0;
    for (; k + 2 * LANES <= classes; k += 2 * LANES) {
        const Float first = exp_nonpositive(load(row + k) - shift);
        const Float second = exp_nonpositive(load(row + k + LANES) - shift);
        even += first;
        odd += second;
        if (terms != nullptr) {
            store(terms + k, first);
            store(terms + k + LANES, second);
        }
    }
    for (; k < classes; k += LANES) {
        const std::int64_t count = classes - k < LANES ? classes - k : LANES;
        const Float term = exp_nonpositive(load_first(row + k, count, -__builtin_inff()) - shift);
        even += term;
        if (terms != nullptr) store_first(terms + k, term, count);
    }
    return sum(even + odd);
}

inline void scale_row(float* row, std::int64_t classes, float factor) {
    const Float factors = splat(factor);
    std::int64_t k = 0;
    for (; k + LANES <= classes; k += LANES) store(row + k, load(row + k) * factors);
    for (; k < classes; ++k) row[k] *= factor;
}

// The smoothed target's weights of classes [k, k + count).
inline Float target_shares(const Focal& focal, std::int64_t target, std::int64_t k, std::int64_t count) {
    Float share = load_first(focal.weight == nullptr ? ones : focal.weight + k, count, 0.0f);
    const bool here = target >= k && target < k + count;
    const float own = here ? share[target - k] : 0.0f;
    share *= splat(focal.label_smoothing / static_cast<float>(focal.classes));
    if (here) share[target - k] += (1.0f - focal.label_smoothing) * own;
    return share;
}

// With label smoothing every class has a share of the target: its loss, and the gradient into `out` unless
// null.
inline float smoothed_row(const Focal& focal, const float* row, std::int64_t target, float top,
                          float log_total, float* out) {
    Float loss{}, slopes{};
    for (std::int64_t k = 0; k < focal.classes; k += LANES) {
        const std::int64_t count = focal.classes - k < LANES ? focal.classes - k : LANES;
        const Float log_p = load_first(row + k, count, top) - splat(top) - splat(log_total);
        const ClassLoss of_class = class_loss(log_p, focal.gamma);
        const Float share = target_shares(focal, target, k, count);
        loss = multiply_add(share, of_class.loss, loss);
        slopes = multiply_add(share, of_class.slope, slopes);
    }
    if (out != nullptr) {
        const Float all_slopes = splat(sum(slopes));
        for (std::int64_t k = 0; k < focal.classes; k += LANES) {
            const std::int64_t count = focal.classes - k < LANES ? focal.classes - k : LANES;
            const Float log_p = load_first(row + k, count, top) - splat(top) - splat(log_total);
            const Float own = target_shares(focal, target, k, count) * class_loss(log_p, focal.gamma).slope;
            const Float gradient = own - exp_nonpositive(log_p) * all_slopes;
            store_first(out + k, gradient * splat(focal.gradient_scale), count);
        }
    }
    return sum(loss);
}

// Rows [begin, begin + count), count <= LANES, so that what happens once per row happens in one vector.
inline void focal_batch(const Focal& focal, std::int64_t begin, std::int64_t count, float* logit_copies,
                        float* gradient_copies) {
    const std::int64_t classes = focal.classes;
    const bool narrow_dtype = focal.dtype != Dtype::float32;
    const float* rows[LANES];
    float* gradients[LANES];
    bool selected[LANES];
    float top[LANES] = {}, total[LANES], own[LANES] = {}, weight[LANES] = {};
    for (int lane = 0; lane < LANES; ++lane) total[lane] = 1.0f;
    const bool smoothed = focal.label_smoothing > 0.0f;
    for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t row = begin + r;
        const std::int64_t target = focal.target[row];
        selected[r] = target != focal.ignore_index && (focal.mask == nullptr || focal.mask[row]);
        gradients[r] = nullptr;
        if (focal.gradient != nullptr) {
            gradients[r] = narrow_dtype ? gradient_copies + r * classes
                                        : static_cast<float*>(focal.gradient) + row * classes;
        }
        if (!selected[r]) continue;
        rows[r] = static_cast<const float*>(focal.logits) + row * focal.row_stride;
        if (narrow_dtype) {
            rows[r] = logit_copies + r * classes;
            widen(focal.logits, focal.dtype, row * focal.row_stride, 1, classes, logit_copies + r * classes);
        }
        top[r] = top_logit(rows[r], classes);
        total[r] = exponentials(rows[r], classes, top[r], smoothed ? nullptr : gradients[r]);
        own[r] = rows[r][target];
        weight[r] = focal.weight == nullptr ? 1.0f : focal.weight[target];
    }
    const Float log_total = log_positive(load(total));
    const Float log_p = load(own) - load(top) - log_total;
    const ClassLoss of_target = class_loss(log_p, focal.gamma);
    const Float losses = of_target.loss * load(weight);
    const Float slope = of_target.slope * load(weight) * splat(focal.gradient_scale);
    const Float own_gradient = slope * one_minus_exp(log_p);
    const Float factor = -slope / load(total);
    for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t row = begin + r;
        focal.losses[row] = selected[r] ? losses[r] : 0.0f;
        if (smoothed && selected[r]) {
            focal.losses[row] =
                smoothed_row(focal, rows[r], focal.target[row], top[r], log_total[r], gradients[r]);
        }
        if (gradients[r] == nullptr) continue;
        if (!selected[r]) {
            __builtin_memset(gradients[r], 0, static_cast<std::size_t>(classes) * sizeof(float));
        } else if (!smoothed) {
            scale_row(gradients[r], classes, factor[r]);
            gradients[r][focal.target[row]] = own_gradient[r];
        }
        if (narrow_dtype) {
            narrow(gradients[r], classes, focal.dtype,
                   static_cast<std::uint16_t*>(focal.gradient) + row * classes);
        }
    }
}

void focal_rows(const Focal& focal, std::int64_t begin, std::int64_t end) {
    // A batch's logits and gradients stay in the second-level cache between the passes.
    std::int64_t batch = 16384 / focal.classes;
    batch = batch < 1 ? 1 : batch > LANES ? LANES : batch;
    std::vector<float> logit_copies, gradient_copies;
    if (focal.dtype != Dtype::float32) {
        logit_copies.resize(static_cast<std::size_t>(batch * focal.classes));
        gradient_copies.resize(logit_copies.size());
    }
    for (std::int64_t row = begin; row < end; row += batch) {
        focal_batch(focal, row, end - row < batch ? end - row : batch, logit_copies.data(),
                    gradient_copies.data());
    }
}

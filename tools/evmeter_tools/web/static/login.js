import { $, api } from "./common.js";

$("#login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const wrong = $("#wrong");
  wrong.hidden = true;
  try {
    await api("/api/v1/login", "POST", { name: form.get("name"), password: form.get("password") });
    location.assign("/fleet");
  } catch (error) {
    wrong.textContent = error.message;
    wrong.hidden = false;
  }
});

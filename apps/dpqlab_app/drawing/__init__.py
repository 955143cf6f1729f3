"""What is drawn and with what: settings, models and versions, the engine; knows no Gradio."""
